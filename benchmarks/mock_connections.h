/* What the mock engines have in common: connections of one epoll that are read and written without waiting, and a heap of those
 * that wait for their moment. Included behind the engine's own
 *
 *   struct Conn { int fd, closed, waits_for_room; char *in, *out; size_t in_len, in_cap, out_len, out_cap; int64_t due_ns; Conn *next; ... }
 *
 * all of which begins as nought. The engine says what becomes of what was read, and of a connection that is over.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static void take_requests(Conn *conn);
static void close_conn(Conn *conn);

static int epoll_fd;
static Conn **waiting; /* a heap: the earliest due comes first */
static size_t waiting_count, waiting_room;
static Conn *to_free;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *grown(void *items, size_t *room) {
    *room = *room ? *room * 2 : 1024;
    if (!(items = realloc(items, *room * sizeof(void *)))) die("realloc");
    return items;
}

static void push(Conn *conn) {
    if (waiting_count == waiting_room) waiting = grown(waiting, &waiting_room);
    size_t at = waiting_count++;
    for (; at && waiting[(at - 1) / 2]->due_ns > conn->due_ns; at = (at - 1) / 2) waiting[at] = waiting[(at - 1) / 2];
    waiting[at] = conn;
}

static Conn *pop(void) {
    Conn *earliest = waiting[0], *last = waiting[--waiting_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < waiting_count; at = child) {
        if (child + 1 < waiting_count && waiting[child + 1]->due_ns < waiting[child]->due_ns) child++;
        if (waiting[child]->due_ns >= last->due_ns) break;
        waiting[at] = waiting[child];
    }
    waiting[at] = last;
    return earliest;
}

static void watch(Conn *conn, int room) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | (room ? EPOLLOUT : 0), .data.ptr = conn};
    if (conn->waits_for_room != room) epoll_ctl(epoll_fd, EPOLL_CTL_MOD, conn->fd, &event);
    conn->waits_for_room = room;
}

static void give(Conn *conn, const char *data, size_t size) {
    if (conn->closed) return;
    if (!conn->out_len) {
        ssize_t wrote = send(conn->fd, data, size, MSG_NOSIGNAL);
        if (wrote == (ssize_t)size) return;
        if (wrote < 0 && errno != EAGAIN) return close_conn(conn);
        if (wrote > 0) data += wrote, size -= wrote;
    }
    if (conn->out_len + size > conn->out_cap) {
        conn->out_cap = (conn->out_len + size) * 2;
        if (!(conn->out = realloc(conn->out, conn->out_cap))) die("realloc");
    }
    memcpy(conn->out + conn->out_len, data, size);
    conn->out_len += size;
    watch(conn, 1);
}

static void readable(Conn *conn) {
    for (;;) {
        if (conn->in_cap - conn->in_len < 4096) {
            conn->in_cap = conn->in_cap ? conn->in_cap * 2 : 8192;
            if (!(conn->in = realloc(conn->in, conn->in_cap))) die("realloc");
        }
        size_t room = conn->in_cap - conn->in_len - 1;
        ssize_t got = recv(conn->fd, conn->in + conn->in_len, room, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN)) return close_conn(conn);
        if (got < 0) break;
        conn->in_len += got;
        if ((size_t)got < room) break;
    }
    take_requests(conn);
}

static void writable(Conn *conn) {
    ssize_t wrote = send(conn->fd, conn->out, conn->out_len, MSG_NOSIGNAL);
    if (wrote < 0 && errno != EAGAIN) return close_conn(conn);
    if (wrote <= 0) return;
    conn->out_len -= wrote;
    memmove(conn->out, conn->out + wrote, conn->out_len);
    if (!conn->out_len) watch(conn, 0);
}
