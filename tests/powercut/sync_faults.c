/* Preloaded into the server to make a sync say "done" without doing it. For the negative controls of powercut.py: a harness
   that passes them would be broken. SKIP_SYNC_OF is `directories`, `blobs`, `database` or `everything`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int skipped(int fd) {
    const char *kind = getenv("SKIP_SYNC_OF");
    char link[64], path[4096];
    struct stat stat;
    if (!kind || fstat(fd, &stat)) return 0;
    if (!strcmp(kind, "everything")) return 1;
    if (S_ISDIR(stat.st_mode)) return !strcmp(kind, "directories");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return !strcmp(kind, strstr(path, "imagewell.db") ? "database" : "blobs");
}

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return skipped(fd) ? 0 : real(fd);
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return skipped(fd) ? 0 : real(fd);
}
