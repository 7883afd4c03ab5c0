/* A mock of vLLM's OpenAI server whose answers come at known times, so that what measures them can be measured.
 *
 *   mock_engine --port PORT [--truth FILE] [options below]
 *
 * One thread, epoll, HTTP/1.1 with keep-alive: POST /v1/chat/completions and /v1/completions, GET /v1/models and /health.
 * Every event has its moment on an absolute schedule: request read + TTFT + i * ITL. At the end (SIGTERM) the truth file has a
 * line of JSON for each request: when it had been read, when each of its events was due and when it was handed to the kernel
 * (CLOCK_MONOTONIC), how it ended. Nothing is random.
 *
 *   --ttft-us 200000 --itl-us 20000   the pace; --spread-us 0: request n's first event comes frac(n * golden ratio) of that later, so
 *                                     that streams which began together do not all have their events at one moment
 *   --tokens 0                        of every answer; 0: as many as its request's max_tokens says
 *   --tokens-per-event 1              as with speculative decoding; at most 256
 *   --stamps                          an event says itself when it was sent ("t_ns"); without, it is vLLM's to the byte
 *   --role-first                      the chunk with the role comes at once, long before the first token
 *   --reasoning 0                     so many tokens come as reasoning first, in --reasoning-field reasoning (before vLLM 0.11: reasoning_content)
 *   --split-us 0                      every event comes in two segments this far apart
 *   --fault KIND:PERCENT              of the requests are refused (503), truncated, error (inside the stream), garbage (an event that is
 *                                     no JSON), silent (nothing more comes) or unfinished (no finish reason, no [DONE]); repeatable
 *   --freeze AT_S:FOR_S               AT_S after the tenth request nothing is sent for FOR_S, and every schedule is put off by as much;
 *                                     requests are still read, as a kernel would take them
 *   --capacity 0                      so many requests are served at a time, the others wait in the order in which they came
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mock_answers.h"

#define TURNS_AT_ONCE 32 /* between looks at the sockets */
#define READS_AT_ONCE 8 /* between looks at the schedule: a request of 300 kB takes a tenth of a millisecond to read */
#define FREEZE_FROM_REQUEST 9

typedef struct Conn {
    int fd, closed, waits_for_room;
    long number;
    char *in, *out, *late; /* late: the second segment of an event under way */
    size_t in_len, in_cap, out_len, out_cap, late_len;
    int64_t due_ns, accepted_ns;
    Request *request;
    struct Conn *next; /* of those to free, or of the queue */
} Conn;

#include "../mock_connections.h"

static int listener;
static Conn *queue_head, *queue_tail; /* those beyond the capacity */
static Request **requests;
static size_t request_count, request_room;
static long connection_count, being_served;
static int64_t frozen_from_ns = INT64_MAX, frozen_until_ns = INT64_MAX;
static int was_frozen;
static volatile sig_atomic_t is_ended;

static void close_conn(Conn *conn) {
    if (conn->closed) return;
    close(conn->fd);
    conn->closed = 1;
    if (conn->request) return; /* still waits: freed when its turn comes */
    conn->next = to_free;
    to_free = conn;
}

/* The beginning of a stream, as soon as the request is read: vLLM sends its head long before there is a token. */
static void begin_stream(Conn *conn) {
    static char text[2048];
    Request *request = conn->request;
    if (request->has_head) return;
    request->has_head = 1;
    int length = stream_head(text, sizeof text);
    if (options.role_first && request->is_chat) length += role(text + length, sizeof text - length, request), request->has_role = 1;
    give(conn, text, length);
}

static void serve(Conn *conn, int64_t from_ns) {
    Request *request = conn->request;
    if (from_ns >= frozen_from_ns && from_ns < frozen_until_ns) from_ns = was_frozen ? frozen_until_ns : frozen_from_ns;
    double turn = request->number * 0.6180339887498949;
    request->base_ns = from_ns + options.ttft_ns + (int64_t)(options.spread_ns * (turn - (long)turn));
    request->is_served = 1;
    being_served++;
    conn->due_ns = request->fault == REFUSED ? from_ns : request->streams ? request->base_ns : request->base_ns + (request->tokens - 1) * options.itl_ns;
    push(conn);
}

static void set_free(Conn *conn) {
    conn->request = NULL;
    free(conn->late);
    conn->late = NULL;
    if (!conn->closed) return take_requests(conn);
    conn->next = to_free;
    to_free = conn;
}

/* The answer is over, as scheduled at `over_ns`; whoever waits first is served from that moment on. */
static void finish(Conn *conn, const char *how, int64_t over_ns) {
    conn->request->how = how;
    being_served -= conn->request->is_served;
    set_free(conn);
    while (queue_head && being_served < options.capacity) {
        Conn *next = queue_head;
        if (!(queue_head = next->next)) queue_tail = NULL;
        if (!next->closed) serve(next, over_ns > next->request->arrived_ns ? over_ns : next->request->arrived_ns);
        else next->request->how = "gone", set_free(next);
    }
}

static void begin(Conn *conn, const char *head, const char *head_end, const char *body, size_t size) {
    char text[1024];
    int is_chat = !strncmp(head, "POST /v1/chat/completions", 25);
    if (!is_chat && strncmp(head, "POST /v1/completions", 20)) return give(conn, text, other_answer(text, sizeof text, head, options.model));
    Request *request = calloc(1, sizeof *request);
    if (!request) die("calloc");
    request->arrived_ns = now_ns();
    request->created_s = time(NULL); /* as vLLM: when the answer began, the same in all its events */
    if (request_count == request_room) requests = grown(requests, &request_room);
    requests[request_count] = conn->request = request;
    request->number = request_count++;
    request->is_chat = is_chat;
    request->connection = conn->number;
    request->accepted_ns = conn->accepted_ns;
    request->how = "open";
    read_request(request, &options, head, head_end, body, size);
    if (!(request->due_ns = calloc(2 * request->events, sizeof *request->due_ns))) die("calloc");
    request->sent_ns = request->due_ns + request->events;
    if (options.freeze_for_s && request->number == FREEZE_FROM_REQUEST) {
        frozen_from_ns = request->arrived_ns + (int64_t)(options.freeze_at_s * 1e9);
        frozen_until_ns = frozen_from_ns + (int64_t)(options.freeze_for_s * 1e9);
    }
    int is_frozen = request->arrived_ns >= frozen_from_ns && request->arrived_ns < frozen_until_ns;
    if (request->streams && request->fault != REFUSED && !is_frozen) begin_stream(conn);
    if (!options.capacity || being_served < options.capacity) return serve(conn, request->arrived_ns);
    conn->next = NULL;
    if (queue_tail) queue_tail->next = conn;
    else queue_head = conn;
    queue_tail = conn;
}

static void take_requests(Conn *conn) {
    while (!conn->request && !conn->closed && conn->in_len) {
        conn->in[conn->in_len] = 0;
        char *head_end = memmem(conn->in, conn->in_len, "\r\n\r\n", 4);
        if (!head_end) return;
        char *body = head_end + 4;
        size_t size = 0, have = conn->in + conn->in_len - body;
        const char *at = header(conn->in, head_end + 2, "content-length");
        if (at) size = strtoul(at, NULL, 10);
        else if (header(conn->in, head_end + 2, "transfer-encoding")) {
            char *end = memmem(body, have, "\r\n0\r\n\r\n", 7);
            if (!end) return;
            size = end + 7 - body;
        }
        if (have < size) return;
        begin(conn, conn->in, head_end + 2, body, size);
        conn->in_len = have - size;
        memmove(conn->in, body + size, conn->in_len);
    }
}

static void answer_at_once(Conn *conn) {
    static char text[8192];
    Request *request = conn->request;
    int is_refused = request->fault == REFUSED;
    int length = is_refused ? refusal(text, sizeof text) : whole_answer(text, sizeof text, request, &options);
    request->sent = 1;
    request->due_ns[0] = conn->due_ns;
    request->sent_ns[0] = now_ns();
    give(conn, text, length);
    finish(conn, is_refused ? "fault" : "finished", conn->due_ns);
}

/* A stream goes wrong in its middle. */
static void break_off(Conn *conn) {
    static char text[1024];
    Request *request = conn->request;
    if (request->fault == SILENT) {
        request->how = "fault";
        conn->due_ns = INT64_MAX; /* until the client goes */
        return push(conn);
    }
    give(conn, text, broken_end(text, sizeof text, request));
    if (request->fault == TRUNCATED) close_conn(conn);
    finish(conn, "fault", conn->due_ns);
}

/* What is due on a connection; then it waits for its next moment, or its answer is over. */
static void take_turn(void) {
    static char text[16384];
    Conn *conn = pop();
    Request *request = conn->request;
    if (conn->closed) return finish(conn, "gone", conn->due_ns);
    if (!request->streams || request->fault == REFUSED) return answer_at_once(conn);
    if (request->fault && request->fault != GARBAGE && request->sent == request->events / 2 && !conn->late) return break_off(conn);
    begin_stream(conn);
    long i = request->sent;
    int64_t moment_ns;
    if (conn->late) {
        moment_ns = stamp(conn->late, options.stamps);
        give(conn, conn->late, conn->late_len);
        free(conn->late);
        conn->late = NULL;
    } else {
        int mark, length = event(text, sizeof text, &mark, request, &options);
        if (options.split_ns) {
            conn->late_len = length - mark;
            if (!(conn->late = malloc(conn->late_len))) die("malloc");
            memcpy(conn->late, text + mark, conn->late_len);
            give(conn, text, mark);
            conn->due_ns += options.split_ns;
            return push(conn);
        }
        moment_ns = stamp(text + mark, options.stamps);
        give(conn, text, length);
    }
    request->has_role = 1;
    request->due_ns[i] = conn->due_ns;
    request->sent_ns[i] = moment_ns;
    if (++request->sent == request->events) return finish(conn, request->fault ? "fault" : "finished", conn->due_ns);
    conn->due_ns = request->base_ns + request->sent * options.itl_ns;
    push(conn);
}

static void freeze(void) {
    was_frozen = 1;
    for (size_t i = 0; i < waiting_count; i++) { /* all by as much: their order stays */
        if (waiting[i]->due_ns == INT64_MAX) continue;
        waiting[i]->due_ns += frozen_until_ns - frozen_from_ns;
        waiting[i]->request->base_ns += frozen_until_ns - frozen_from_ns;
    }
}

static void accept_all(void) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
        if (fd < 0) return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Conn *conn = calloc(1, sizeof *conn);
        if (!conn) die("calloc");
        conn->fd = fd;
        conn->number = connection_count++;
        conn->accepted_ns = now_ns();
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = conn};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    }
}

static void end(int number) { (void)number, is_ended = 1; }

int main(int count, char **words) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct rlimit files;
    int on = 1;
    read_options(count, words);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1); /* else every sleep may last 50 us longer */
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* it outlives no benchmark that is killed */
    signal(SIGTERM, end), signal(SIGINT, end);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    address.sin_port = htons(options.port);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 65535)) die("listen");
    struct epoll_event ready[READS_AT_ONCE], listening = {.events = EPOLLIN, .data.ptr = NULL};
    if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &listening)) die("epoll");
    while (!is_ended) {
        int64_t now = now_ns();
        for (int turns = 0; turns < TURNS_AT_ONCE; turns++) {
            if (!was_frozen && now >= frozen_from_ns && (!waiting_count || waiting[0]->due_ns >= frozen_from_ns)) freeze();
            if (!waiting_count || waiting[0]->due_ns > now) break;
            take_turn();
            now = now_ns();
        }
        int64_t wait_ns = waiting_count ? waiting[0]->due_ns - now : 1000000000;
        if (wait_ns < 0) wait_ns = 0;
        if (wait_ns > 1000000000) wait_ns = 1000000000;
        struct timespec wait = {.tv_sec = wait_ns / 1000000000, .tv_nsec = wait_ns % 1000000000};
        int found = epoll_pwait2(epoll_fd, ready, READS_AT_ONCE, &wait, NULL);
        if (found < 0 && errno != EINTR) die("epoll_pwait2");
        for (int i = 0; i < found; i++) {
            Conn *conn = ready[i].data.ptr;
            if (!conn) accept_all();
            else if (!conn->closed && ready[i].events & EPOLLOUT) writable(conn);
            if (conn && !conn->closed && ready[i].events & ~EPOLLOUT) readable(conn);
        }
        while (to_free) {
            Conn *gone = to_free;
            to_free = gone->next;
            free(gone->in), free(gone->out), free(gone->late), free(gone);
        }
    }
    if (options.truth && !write_truth(requests, request_count, connection_count)) die(options.truth);
    return 0;
}
