/* Makes chosen system calls of a process fail: LD_PRELOAD=faults.so FAULT_CALL=pwrite FAULT_PATH=000001.parquet …
 *
 * FAULT_CALL   open, read, pread, write, pwrite, mmap, fsync, fdatasync, rename, unlink, link, stat, mkdir,
 *              readdir, fallocate, ftruncate, flock, copy; each with what does the same by other names
 * FAULT_PATH   what the path of the file must contain
 * FAULT_AFTER  calls that succeed first
 * FAULT_COUNT  calls that fail then
 * FAULT_ERRNO  what they fail with
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
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
		return fails_path("open", path) ? -1 : real(folder, path, flags, mode); \
	}
OPENAT(openat)
OPENAT(openat64)

#define OPEN(name) \
	int name(const char *path, int flags, ...) \
	{ \
		REAL(name); \
		va_list list; \
		va_start(list, flags); \
		mode_t mode = va_arg(list, mode_t); \
		va_end(list); \
		return fails_path("open", path) ? -1 : real(path, flags, mode); \
	}
OPEN(open)
OPEN(open64)

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

/* A call that is about a path, or about a file that is open. */
#define BY_PATH(call, path, name, parameters, arguments) \
	int name parameters \
	{ \
		REAL(name); \
		return fails_path(call, path) ? -1 : real arguments; \
	}
#define BY_FILE(call, name, parameters, arguments) \
	int name parameters \
	{ \
		REAL(name); \
		return fails(call, file) ? -1 : real arguments; \
	}
BY_PATH("rename", to, rename, (const char *from, const char *to), (from, to))
BY_PATH("rename", to, renameat, (int from_at, const char *from, int to_at, const char *to), (from_at, from, to_at, to))
BY_PATH("link", to, link, (const char *from, const char *to), (from, to))
BY_PATH("link", to, linkat, (int from_at, const char *from, int to_at, const char *to, int flags), (from_at, from, to_at, to, flags))
BY_PATH("unlink", path, unlink, (const char *path), (path))
BY_PATH("unlink", path, unlinkat, (int at, const char *path, int flags), (at, path, flags))
BY_PATH("mkdir", path, mkdir, (const char *path, mode_t mode), (path, mode))
BY_PATH("mkdir", path, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
BY_PATH("stat", path, stat, (const char *path, struct stat *found), (path, found))
BY_PATH("stat", path, stat64, (const char *path, struct stat64 *found), (path, found))
BY_PATH("stat", path, lstat, (const char *path, struct stat *found), (path, found))
BY_PATH("stat", path, lstat64, (const char *path, struct stat64 *found), (path, found))
BY_PATH("stat", path, fstatat, (int at, const char *path, struct stat *found, int flags), (at, path, found, flags))
BY_PATH("stat", path, fstatat64, (int at, const char *path, struct stat64 *found, int flags), (at, path, found, flags))
BY_FILE("stat", fstat, (int file, struct stat *found), (file, found))
BY_FILE("stat", fstat64, (int file, struct stat64 *found), (file, found))
BY_FILE("ftruncate", ftruncate, (int file, off_t size), (file, size))
BY_FILE("ftruncate", ftruncate64, (int file, off64_t size), (file, size))
BY_FILE("flock", flock, (int file, int how), (file, how))
BY_FILE("fallocate", fallocate, (int file, int how, off_t start, off_t size), (file, how, start, size))
BY_FILE("fallocate", fallocate64, (int file, int how, off64_t start, off64_t size), (file, how, start, size))

#define READDIR(name, entry) \
	struct entry *name(DIR *folder) \
	{ \
		REAL(name); \
		return fails("readdir", dirfd(folder)) ? NULL : real(folder); \
	}
READDIR(readdir, dirent)
READDIR(readdir64, dirent64)

ssize_t copy_file_range(int from, off64_t *first, int file, off64_t *place, size_t size, unsigned flags)
{
	REAL(copy_file_range);
	return fails("copy", file) ? -1 : real(from, first, file, place, size, flags);
}

#define SENDFILE(name, offset) \
	ssize_t name(int file, int from, offset *place, size_t size) \
	{ \
		REAL(name); \
		return fails("copy", file) ? -1 : real(file, from, place, size); \
	}
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

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
