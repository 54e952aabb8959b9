/* Lets a folder be on a disk that misbehaves: preloaded (LD_PRELOAD), it stands between a program and the C library.

   BAD_DISK: the folder, without links. BAD_DISK_IS: a file that says how it is just now, in letters:
     f  full: what is written fails with ENOSPC
     r  read-only: whatever would change something fails with EROFS, also through files that are open
     n  NFS: nothing is renamed onto a file that this process has open (EBUSY); such a file is not removed but keeps another
        name (.nfs...); what another host has replaced or removed cannot be read any longer (ESTALE); root owns nothing and may
        not change owners and modes (EPERM); there are no locks (ENOLCK), no direct writes and no syncs of folders (EINVAL) */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define FAIL(code) do { errno = (code); return -1; } while (0)

static int is(char how) {
    const char *control = getenv("BAD_DISK_IS");
    char said[16] = "";
    if (!control) return 0;
    int saved = errno, file = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC, 0);
    if (file >= 0) {
        ssize_t got = syscall(SYS_read, file, said, sizeof said - 1);
        said[got > 0 ? got : 0] = 0;
        syscall(SYS_close, file);
    }
    errno = saved;
    return strchr(said, how) != NULL;
}

static int below(const char *path) {
    const char *folder = getenv("BAD_DISK");
    size_t length = folder ? strlen(folder) : 0;
    return length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

/* The path that a name means from a folder's descriptor; NULL if it is not on the disk. */
static const char *at(int folder, const char *name, char *whole) {
    char link[64];
    if (!name) return NULL;
    if (name[0] == '/') snprintf(whole, PATH_MAX, "%s", name);
    else if (folder == AT_FDCWD) {
        if (!getcwd(whole, PATH_MAX)) return NULL;
        snprintf(whole + strlen(whole), PATH_MAX - strlen(whole), "/%s", name);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, whole, PATH_MAX - 1);
        if (length < 0) return NULL;
        snprintf(whole + length, PATH_MAX - length, "/%s", name);
    }
    return below(whole) ? whole : NULL;
}

static int on_disk(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static int is_open(const char *path) {
    struct stat wanted, found;
    struct dirent *entry;
    int open = 0;
    if (lstat(path, &wanted) || !S_ISREG(wanted.st_mode)) return 0;
    DIR *all = opendir("/proc/self/fd");
    while (all && !open && (entry = readdir(all)))
        open = !fstat(atoi(entry->d_name), &found) && found.st_ino == wanted.st_ino && found.st_dev == wanted.st_dev;
    if (all) closedir(all);
    return open;
}

static int refuses_change(const char *path) {
    if (path && is('r')) { errno = EROFS; return 1; }
    return 0;
}

static int refuses_new(const char *path) {
    if (refuses_change(path)) return 1;
    if (path && is('f')) { errno = ENOSPC; return 1; }
    return 0;
}

static int refuses_open(int folder, const char *name, int flags) {
    char whole[PATH_MAX];
    const char *path = at(folder, name, whole);
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    if (!path || !(writes || flags & O_CREAT)) return 0;
    if (refuses_change(path)) return 1;
    if (flags & O_CREAT && access(path, F_OK) && is('f')) { errno = ENOSPC; return 1; }
    return 0;
}

#define OPEN(name, ...) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) { REAL(open); OPEN(open) return refuses_open(AT_FDCWD, path, flags) ? -1 : real(path, flags, mode); }
int open64(const char *path, int flags, ...) { REAL(open64); OPEN(open64) return refuses_open(AT_FDCWD, path, flags) ? -1 : real(path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { REAL(openat); OPEN(openat) return refuses_open(folder, path, flags) ? -1 : real(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { REAL(openat64); OPEN(openat64) return refuses_open(folder, path, flags) ? -1 : real(folder, path, flags, mode); }

static int refuses_write(int file) {
    if (!on_disk(file)) return 0;
    if (is('r')) errno = EROFS;
    else if (is('f')) errno = ENOSPC;
    else if (is('n') && fcntl(file, F_GETFL) & O_DIRECT) errno = EINVAL;
    else return 0;
    return 1;
}

ssize_t write(int file, const void *data, size_t size) { REAL(write); return refuses_write(file) ? -1 : real(file, data, size); }
ssize_t pwrite(int file, const void *data, size_t size, off_t to) { REAL(pwrite); return refuses_write(file) ? -1 : real(file, data, size, to); }
ssize_t pwrite64(int file, const void *data, size_t size, off64_t to) { REAL(pwrite64); return refuses_write(file) ? -1 : real(file, data, size, to); }
ssize_t writev(int file, const struct iovec *data, int count) { REAL(writev); return refuses_write(file) ? -1 : real(file, data, count); }

int fsync(int file) {
    struct stat found;
    REAL(fsync);
    if (is('n') && on_disk(file) && !fstat(file, &found) && S_ISDIR(found.st_mode)) FAIL(EINVAL);
    return real(file);
}

static int is_stale(int file) {
    struct stat found;
    if (fstat(file, &found) || found.st_nlink || !S_ISREG(found.st_mode) || !on_disk(file) || !is('n')) return 0;
    errno = ESTALE;
    return 1;
}

ssize_t read(int file, void *data, size_t size) { REAL(read); return is_stale(file) ? -1 : real(file, data, size); }
ssize_t pread(int file, void *data, size_t size, off_t from) { REAL(pread); return is_stale(file) ? -1 : real(file, data, size, from); }
ssize_t pread64(int file, void *data, size_t size, off64_t from) { REAL(pread64); return is_stale(file) ? -1 : real(file, data, size, from); }

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    char a[PATH_MAX], b[PATH_MAX];
    const char *source = at(from, old, a), *target = at(to, new, b);
    REAL(renameat2);
    if (refuses_new(target ? target : source)) return -1;
    if (target && is('n') && is_open(target)) FAIL(EBUSY);
    return real(from, old, to, new, flags);
}
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }
int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }

int unlinkat(int folder, const char *name, int flags) {
    char whole[PATH_MAX], hidden[PATH_MAX + 64];
    const char *path = at(folder, name, whole);
    REAL(unlinkat);
    if (refuses_change(path)) return -1;
    if (path && !(flags & AT_REMOVEDIR) && is('n') && is_open(path)) {
        static unsigned number;
        const char *slash = strrchr(path, '/');
        snprintf(hidden, sizeof hidden, "%.*s/.nfs%08x", (int)(slash - path), path, ++number);
        return syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, hidden, 0) ? -1 : 0;
    }
    return real(folder, name, flags);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int mkdirat(int folder, const char *name, mode_t mode) { char w[PATH_MAX]; REAL(mkdirat); return refuses_new(at(folder, name, w)) ? -1 : real(folder, name, mode); }
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
int symlink(const char *to, const char *path) { char w[PATH_MAX]; REAL(symlink); return refuses_new(at(AT_FDCWD, path, w)) ? -1 : real(to, path); }
int link(const char *to, const char *path) { char w[PATH_MAX]; REAL(link); return refuses_new(at(AT_FDCWD, path, w)) ? -1 : real(to, path); }

static int refuses_owner(const char *path) {
    if (refuses_change(path)) return 1;
    if (path && is('n')) { errno = EPERM; return 1; }
    return 0;
}
static int refuses_owner_of(int file) { return refuses_owner(on_disk(file) ? "" : NULL); }

int chmod(const char *path, mode_t mode) { char w[PATH_MAX]; REAL(chmod); return refuses_owner(at(AT_FDCWD, path, w)) ? -1 : real(path, mode); }
int fchmodat(int folder, const char *path, mode_t mode, int flags) { char w[PATH_MAX]; REAL(fchmodat); return refuses_owner(at(folder, path, w)) ? -1 : real(folder, path, mode, flags); }
int fchmod(int file, mode_t mode) { REAL(fchmod); return refuses_owner_of(file) ? -1 : real(file, mode); }
int chown(const char *path, uid_t user, gid_t group) { char w[PATH_MAX]; REAL(chown); return refuses_owner(at(AT_FDCWD, path, w)) ? -1 : real(path, user, group); }
int fchown(int file, uid_t user, gid_t group) { REAL(fchown); return refuses_owner_of(file) ? -1 : real(file, user, group); }
int utimensat(int folder, const char *path, const struct timespec times[2], int flags) { char w[PATH_MAX]; REAL(utimensat); return refuses_owner(at(folder, path, w)) ? -1 : real(folder, path, times, flags); }
int futimens(int file, const struct timespec times[2]) { REAL(futimens); return refuses_owner_of(file) ? -1 : real(file, times); }
int ftruncate(int file, off_t size) { REAL(ftruncate); if (refuses_change(on_disk(file) ? "" : NULL)) return -1; return real(file, size); }
int ftruncate64(int file, off64_t size) { REAL(ftruncate64); if (refuses_change(on_disk(file) ? "" : NULL)) return -1; return real(file, size); }
int flock(int file, int how) { REAL(flock); if (on_disk(file) && is('n')) FAIL(ENOLCK); return real(file, how); }

static int refuses_lock(int file, int command) {
    int locks = command == F_SETLK || command == F_SETLKW || command == F_SETLK64 || command == F_SETLKW64;
    if (!locks || !on_disk(file) || !is('n')) return 0;
    errno = ENOLCK;
    return 1;
}
int fcntl(int file, int command, ...) {
    REAL(fcntl);
    va_list rest; va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest);
    return refuses_lock(file, command) ? -1 : real(file, command, argument);
}
int fcntl64(int file, int command, ...) {
    REAL(fcntl64);
    va_list rest; va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest);
    return refuses_lock(file, command) ? -1 : real(file, command, argument);
}
