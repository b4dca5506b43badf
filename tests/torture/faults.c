/* Makes chosen system calls of a process fail: LD_PRELOAD=faults.so FAULT_CALL=pwrite FAULT_PATH=000001.parquet …
 *
 * FAULT_CALL   openat, read, pread, write, pwrite, fsync, fdatasync, renameat, mmap, fallocate
 * FAULT_PATH   what the path of the file must contain
 * FAULT_AFTER  calls that succeed first
 * FAULT_COUNT  calls that fail then
 * FAULT_ERRNO  what they fail with
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long seen;

static int fails_path(const char *call, const char *path)
{
	const char *wanted = getenv("FAULT_CALL"), *part = getenv("FAULT_PATH");
	if (!wanted || !part || !path || strcmp(wanted, call) || !strstr(path, part))
		return 0;
	long place = atomic_fetch_add(&seen, 1), after = atol(getenv("FAULT_AFTER"));
	if (place < after || place >= after + atol(getenv("FAULT_COUNT")))
		return 0;
	errno = atoi(getenv("FAULT_ERRNO"));
	return 1;
}

static int fails(const char *call, int file)
{
	if (!getenv("FAULT_CALL") || strcmp(getenv("FAULT_CALL"), call))
		return 0;
	char link[64], path[4096];
	snprintf(link, sizeof link, "/proc/self/fd/%d", file);
	ssize_t size = readlink(link, path, sizeof path - 1);
	if (size < 0)
		return 0;
	path[size] = 0;
	return fails_path(call, path);
}

#define REAL(name) \
	static __typeof__(name) *real; \
	if (!real) \
		*(void **)&real = dlsym(RTLD_NEXT, #name)

#define OPENAT(name) \
	int name(int folder, const char *path, int flags, ...) \
	{ \
		REAL(name); \
		va_list list; \
		va_start(list, flags); \
		mode_t mode = va_arg(list, mode_t); \
		va_end(list); \
		return fails_path("openat", path) ? -1 : real(folder, path, flags, mode); \
	}
OPENAT(openat)
OPENAT(openat64)

#define PREAD(name) \
	ssize_t name(int file, void *data, size_t size, off_t place) \
	{ \
		REAL(name); \
		return fails("pread", file) ? -1 : real(file, data, size, place); \
	}
PREAD(pread)
PREAD(pread64)

#define PWRITE(name) \
	ssize_t name(int file, const void *data, size_t size, off_t place) \
	{ \
		REAL(name); \
		return fails("pwrite", file) ? -1 : real(file, data, size, place); \
	}
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t read(int file, void *data, size_t size)
{
	REAL(read);
	return fails("read", file) ? -1 : real(file, data, size);
}

ssize_t write(int file, const void *data, size_t size)
{
	REAL(write);
	return fails("write", file) ? -1 : real(file, data, size);
}

int fsync(int file)
{
	REAL(fsync);
	return fails("fsync", file) ? -1 : real(file);
}

int fdatasync(int file)
{
	REAL(fdatasync);
	return fails("fdatasync", file) ? -1 : real(file);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
	REAL(renameat);
	return fails_path("renameat", to) ? -1 : real(from_folder, from, to_folder, to);
}

#define MMAP(name) \
	void *name(void *where, size_t size, int protection, int flags, int file, off_t place) \
	{ \
		REAL(name); \
		if (file >= 0 && fails("mmap", file)) \
			return MAP_FAILED; \
		return real(where, size, protection, flags, file, place); \
	}
MMAP(mmap)
MMAP(mmap64)

#define FALLOCATE(name) \
	int name(int file, off_t start, off_t size) \
	{ \
		REAL(name); \
		return fails("fallocate", file) ? errno : real(file, start, size); \
	}
FALLOCATE(posix_fallocate)
FALLOCATE(posix_fallocate64)
