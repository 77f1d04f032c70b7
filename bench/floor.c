/* The naive floor of the record bench: what the kernel alone costs to take in N feeds and to put
 * them on disk. epoll, one recv per readable event, 1 MiB O_DIRECT writes into one preallocated
 * file that is used as a ring. No framing, no RTP, no hash, no index, no fsync: whatever a recorder
 * does beyond that is its own cost.
 *
 * Built by bench/floor.py with the system's compiler and called through ctypes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_BYTES (1u << 20)
#define EVENTS_MAX 1024

/* Read every socket to its end; received[n] counts the bytes of fds[n]. 0 or a negative errno. */
int floor_run(const int *fds, int count, const char *path, uint64_t file_bytes, uint64_t *received)
{
    static struct epoll_event events[EVENTS_MAX];
    uint8_t *buffer = NULL;
    uint64_t offset = 0;
    size_t fill = 0;
    int open_count = count;
    int file = open(path, O_CREAT | O_WRONLY | O_DIRECT | O_CLOEXEC, 0600);
    int poll = epoll_create1(EPOLL_CLOEXEC);

    if (file < 0 || poll < 0)
        return -errno;
    if (posix_fallocate(file, 0, (off_t)file_bytes) || posix_memalign((void **)&buffer, 4096, BUFFER_BYTES))
        return -ENOSPC;
    for (int n = 0; n < count; n++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)n};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, fds[n], &event))
            return -errno;
    }
    while (open_count > 0) {
        int ready = epoll_wait(poll, events, EVENTS_MAX, -1);
        if (ready < 0 && errno != EINTR)
            return -errno;
        for (int e = 0; e < ready; e++) {
            uint32_t n = events[e].data.u32;
            ssize_t got = recv(fds[n], buffer + fill, BUFFER_BYTES - fill, MSG_DONTWAIT);
            if (got < 0 && (errno == EAGAIN || errno == EINTR))
                continue;
            if (got <= 0) {
                epoll_ctl(poll, EPOLL_CTL_DEL, fds[n], NULL);
                open_count--;
                if (got < 0)
                    return -errno;
                continue;
            }
            received[n] += (uint64_t)got;
            fill += (size_t)got;
            if (fill == BUFFER_BYTES) {
                if (pwrite(file, buffer, BUFFER_BYTES, (off_t)offset) != BUFFER_BYTES)
                    return -(errno ? errno : EIO);
                offset = (offset + BUFFER_BYTES) % file_bytes;
                fill = 0;
            }
        }
    }
    free(buffer);
    close(poll);
    close(file);
    return 0;
}
