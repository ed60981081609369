/* Preloaded into a process, it records what that does to the files below a directory, in the order in which it does it.
 *
 * POWER_ROOT    the directory, as an absolute path without links
 * POWER_RECORD  the file that the record is appended to; not below the directory
 *
 * A record is a `struct head`, then a path relative to the directory, then data; record.py reads it. A sync is only
 * recorded, not done: what a disk has after a power cut is made up from the record, so nothing has to wait for one.
 *
 * SQLite's index (-shm) is left out: it is a memory that processes share, mapped, never synced, and made anew. Not all
 * ways to change a file are known here: who uses the record compares what it says with the files that there are.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    CREATE = 'C',
    MKDIR = 'D',
    WRITE = 'W',
    TRUNCATE = 'T',
    SYNC = 'S',
    RENAME = 'R', /* the data is the new path */
    UNLINK = 'U',
    MARK = 'M',
};

struct head {
    uint32_t kind, path, data, unused; /* path, data: bytes that follow */
    uint64_t inode;
    int64_t offset; /* of a write; the size of a truncated file */
};

static char root[PATH_MAX];
static size_t root_length;
static int record = -1;
/* Held from before a call until it is recorded, so that the order of the record is that of the calls. */
static pthread_mutex_t in_order = PTHREAD_MUTEX_INITIALIZER;

static void lock(void) { pthread_mutex_lock(&in_order); }
static void unlock(void) { pthread_mutex_unlock(&in_order); }

__attribute__((constructor)) static void begin(void)
{
    const char *directory = getenv("POWER_ROOT"), *file = getenv("POWER_RECORD");
    if (!directory || !file || !realpath(directory, root))
        return;
    root_length = strlen(root);
    record = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    pthread_atfork(lock, unlock, unlock);
}

static void fail(const char *what)
{
    dprintf(2, "power shim: %s\n", what);
    abort();
}

static void note(enum kind kind, uint64_t inode, int64_t offset, const char *path, const void *data, size_t length)
{
    struct head head = {kind, strlen(path), length, 0, inode, offset};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)path, head.path}, {(void *)data, length}};
    if (syscall(SYS_writev, record, parts, 3) != (long)(sizeof head + head.path + length))
        fail("the record cannot be written");
}

/* --- which file it is ------------------------------------------------------------------------------------ */

/* The part of an absolute path that is below the directory ("" is itself), if that is recorded; else NULL. */
static const char *below(const char *path)
{
    if (record < 0 || strncmp(path, root, root_length) || (path[root_length] && path[root_length] != '/'))
        return NULL;
    if (strstr(path + root_length, "-shm"))
        return NULL;
    return path + root_length + (path[root_length] == '/');
}

static const char *path_of(int file, char *room)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, room, PATH_MAX - 1);
    if (length < 0)
        return NULL;
    room[length] = 0;
    return below(room);
}

/* As `below`, for what may be relative, to `directory` or to where the process is. */
static const char *named(int directory, const char *path, char *room)
{
    char link[64];
    ssize_t length = 0;
    if (record < 0)
        return NULL;
    if (path[0] != '/') {
        snprintf(link, sizeof link, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", directory);
        if ((length = readlink(link, room, PATH_MAX / 2)) < 0)
            return NULL;
        room[length++] = '/';
    }
    if (length + strlen(path) >= PATH_MAX)
        return NULL;
    strcpy(room + length, path);
    const char *found = below(room);
    if (found && strstr(found, ".."))
        fail("a path with ..");
    return found;
}

static uint64_t inode_of(int file, struct stat *found)
{
    if (fstat(file, found))
        fail("fstat");
    return found->st_ino;
}

/* --- opening --------------------------------------------------------------------------------------------- */

static int open_noted(int directory, const char *path, int flags, mode_t mode)
{
    char room[PATH_MAX];
    struct stat found;
    const char *name = (flags & O_TMPFILE) == O_TMPFILE ? NULL : named(directory, path, room);
    if (!name || !(flags & (O_CREAT | O_TRUNC)))
        return syscall(SYS_openat, directory, path, flags, mode);
    lock();
    int is_new = fstatat(directory, path, &found, 0) && errno == ENOENT;
    int file = syscall(SYS_openat, directory, path, flags, mode);
    int error = errno;
    if (file >= 0 && is_new)
        note(CREATE, inode_of(file, &found), 0, name, "", 0);
    else if (file >= 0 && (flags & O_TRUNC))
        note(TRUNCATE, inode_of(file, &found), 0, name, "", 0);
    unlock();
    errno = error;
    return file;
}

#define MODE(flags, last) ({ mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; \
    va_start(list, last); mode = va_arg(list, int); va_end(list); } mode; })

int open(const char *path, int flags, ...) { return open_noted(AT_FDCWD, path, flags, MODE(flags, flags)); }
int open64(const char *path, int flags, ...) { return open_noted(AT_FDCWD, path, flags, MODE(flags, flags)); }
int openat(int at, const char *path, int flags, ...) { return open_noted(at, path, flags, MODE(flags, flags)); }
int openat64(int at, const char *path, int flags, ...) { return open_noted(at, path, flags, MODE(flags, flags)); }
int creat(const char *path, mode_t mode) { return open_noted(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open_noted(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* --- files ----------------------------------------------------------------------------------------------- */

ssize_t pwrite64(int file, const void *data, size_t length, off64_t offset)
{
    char room[PATH_MAX];
    struct stat found;
    const char *name = path_of(file, room);
    if (!name)
        return syscall(SYS_pwrite64, file, data, length, offset);
    lock();
    ssize_t written = syscall(SYS_pwrite64, file, data, length, offset);
    int error = errno;
    if (written > 0)
        note(WRITE, inode_of(file, &found), offset, name, data, written);
    unlock();
    errno = error;
    return written;
}

ssize_t pwrite(int file, const void *data, size_t length, off_t offset) { return pwrite64(file, data, length, offset); }

ssize_t write(int file, const void *data, size_t length)
{
    char room[PATH_MAX];
    struct stat found;
    const char *name = path_of(file, room);
    if (!name)
        return syscall(SYS_write, file, data, length);
    lock();
    ssize_t written = syscall(SYS_write, file, data, length);
    int error = errno;
    if (written > 0) /* where it went, with O_APPEND too, is where the file stands now */
        note(WRITE, inode_of(file, &found), syscall(SYS_lseek, file, 0, SEEK_CUR) - written, name, data, written);
    unlock();
    errno = error;
    return written;
}

int ftruncate64(int file, off64_t size)
{
    char room[PATH_MAX];
    struct stat found;
    const char *name = path_of(file, room);
    if (!name)
        return syscall(SYS_ftruncate, file, size);
    lock();
    int result = syscall(SYS_ftruncate, file, size);
    int error = errno;
    if (!result)
        note(TRUNCATE, inode_of(file, &found), size, name, "", 0);
    unlock();
    errno = error;
    return result;
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

static int sync_noted(int file, long call)
{
    char room[PATH_MAX];
    struct stat found;
    const char *name = path_of(file, room);
    if (!name)
        return syscall(call, file);
    lock();
    note(SYNC, inode_of(file, &found), 0, name, "", 0);
    unlock();
    return 0;
}

int fsync(int file) { return sync_noted(file, SYS_fsync); }
int fdatasync(int file) { return sync_noted(file, SYS_fdatasync); }

/* --- names ----------------------------------------------------------------------------------------------- */

int renameat(int from_directory, const char *from, int to_directory, const char *to)
{
    char room[PATH_MAX], other[PATH_MAX];
    const char *old = named(from_directory, from, room), *new = named(to_directory, to, other);
    if (!old != !new)
        fail("a file is moved into the directory, or out of it");
    if (!old)
        return syscall(SYS_renameat, from_directory, from, to_directory, to);
    lock();
    int result = syscall(SYS_renameat, from_directory, from, to_directory, to);
    int error = errno;
    if (!result)
        note(RENAME, 0, 0, old, new, strlen(new));
    unlock();
    errno = error;
    return result;
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int unlinkat(int directory, const char *path, int flags)
{
    char room[PATH_MAX];
    const char *name = named(directory, path, room);
    if (!name)
        return syscall(SYS_unlinkat, directory, path, flags);
    lock();
    int result = syscall(SYS_unlinkat, directory, path, flags);
    int error = errno;
    if (!result)
        note(UNLINK, 0, 0, name, "", 0);
    unlock();
    errno = error;
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int directory, const char *path, mode_t mode)
{
    char room[PATH_MAX];
    struct stat found;
    const char *name = named(directory, path, room);
    if (!name)
        return syscall(SYS_mkdirat, directory, path, mode);
    lock();
    int result = syscall(SYS_mkdirat, directory, path, mode);
    int error = errno;
    if (!result && fstatat(directory, path, &found, 0))
        fail("a directory was made, and is not there");
    if (!result)
        note(MKDIR, found.st_ino, 0, name, "", 0);
    unlock();
    errno = error;
    return result;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* --- what the writer says -------------------------------------------------------------------------------- */

/* Put a text into the record, in order: what is acknowledged, what is begun. */
void power_mark(const char *text)
{
    lock();
    note(MARK, 0, 0, "", text, strlen(text));
    unlock();
}
