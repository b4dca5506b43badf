"""What befalls a recording is told when it begins and when it is over, and not in between."""

from __future__ import annotations

from recorder.watch import CALM_S, Watch


def test_a_loss_and_a_step_that_fails_are_told_once_and_that_they_are_over() -> None:
    told: list[tuple[str, str]] = []
    now = [0.0]
    watch = Watch(lambda text, event="degradation": told.append((event, text)), lambda: now[0])
    for second in range(200):
        now[0] = second
        failing = {"tcp": "Device or resource busy"} if 10 <= second < 15 else {}
        watch.sample(lost=7 if second in (20, 22, 22 + CALM_S - 1) else 0, failing=failing)
    assert told == [
        ("degradation", "tcp could not be read: Device or resource busy"),
        ("loss", "7 close events were lost: the kernel's buffer for them was full"),
        ("recovery", "over: tcp could not be read (5 in 4 s)"),
        ("recovery", "over: close events were lost (21 in 61 s)"),
    ]
