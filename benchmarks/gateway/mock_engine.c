/* A mock of vLLM's OpenAI server that costs almost nothing, so that what lies in front of it can be measured.
 *
 *   mock_engine [--events N] [--replica NAME] [--record FILE] --listen tcp:PORT|unix:PATH ...
 *
 * One thread, epoll, HTTP/1.1 with keep-alive. `--record` and `--replica` hold for the listeners after them ("--record -": none).
 *
 *   POST /v1/chat/completions   vLLM's JSON, or with "stream": true its server-sent events, chunked, a write for each event as
 *                               vLLM does; "max_tokens" says how many, else --events. Usage when asked for, and [DONE].
 *   GET /health, /kiva/generating, /v1/models
 *
 * A request says its pace: "seed": N is the time in microseconds before the first and between all events, on an absolute
 * schedule; without it, or with 0, it goes as fast as possible, one event of every stream a turn, as from an engine's step.
 * With a record file each generating request appends a line of what was counted, opened anew each time: the file may be
 * renamed away at any moment.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_LISTENERS 64
#define PROMPT_TOKENS 12

typedef struct {
    int fd, is_tcp;
    const char *record, *replica;
} Listener;

typedef struct Conn {
    int fd, closed, waits_for_room, busy, streams, wants_usage;
    const Listener *listener;
    char *in, *out;
    size_t in_len, in_cap, out_len, out_cap;
    char model[96], request_id[96];
    long events, sent, created_s;
    int64_t pace_ns, due_ns;
    struct Conn *next; /* of those to free */
} Conn;

#include "../mock_connections.h"

static Listener listeners[MAX_LISTENERS];
static int listener_count;
static long default_events = 32;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void record(Conn *conn, int finished) {
    if (!conn->listener->record) return;
    char line[640], at[40];
    struct timespec t;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &utc);
    strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%S", &utc);
    int length = snprintf(line, sizeof line,
                          "{\"at\": \"%s.%03ldZ\", \"request_id\": \"%s\", \"replica\": \"%s\", \"model\": \"%s\", \"prompt_tokens\": %d, "
                          "\"cached_tokens\": 0, \"completion_tokens\": %ld, \"finished\": %s}\n",
                          at, t.tv_nsec / 1000000, conn->request_id, conn->listener->replica, conn->model, PROMPT_TOKENS, conn->sent,
                          finished ? "true" : "false");
    int fd = open(conn->listener->record, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, line, length) != length) die(conn->listener->record);
    close(fd);
}

static void close_conn(Conn *conn) {
    if (conn->closed) return;
    if (conn->busy && conn->streams) record(conn, 0);
    close(conn->fd);
    conn->closed = 1;
    if (conn->busy) return; /* still waits: freed when its turn comes */
    conn->next = to_free;
    to_free = conn;
}

static void answer(Conn *conn, int status, const char *body) {
    char text[2048];
    int length = snprintf(text, sizeof text, "HTTP/1.1 %d %s\r\nserver: uvicorn\r\ncontent-length: %zu\r\ncontent-type: application/json\r\n\r\n%s", status,
                          status == 200 ? "OK" : "Not Found", strlen(body), body);
    give(conn, text, length);
}

static void answer_whole(Conn *conn) {
    char body[1200];
    conn->sent = conn->events;
    snprintf(body, sizeof body,
             "{\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion\",\"created\":%ld,\"model\":\"%s\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
             "\"assistant\",\"content\":\"The capital of Germany is Berlin, and it has been so again since the third of October 1990.\",\"refusal\":null,"
             "\"annotations\":null,\"audio\":null,\"function_call\":null,\"tool_calls\":[],\"reasoning\":null},\"logprobs\":null,\"finish_reason\":\"stop\","
             "\"stop_reason\":null,\"token_ids\":null}],\"service_tier\":null,\"system_fingerprint\":null,\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%ld,"
             "\"completion_tokens\":%ld,\"prompt_tokens_details\":null},\"prompt_logprobs\":null,\"prompt_token_ids\":null,\"kv_transfer_params\":null}",
             conn->request_id, conn->created_s, conn->model, PROMPT_TOKENS, PROMPT_TOKENS + conn->sent, conn->sent);
    record(conn, 1);
    answer(conn, 200, body);
}

static int chunk(char *text, size_t room, const char *event) { return snprintf(text, room, "%zx\r\n%s\r\n", strlen(event), event); }

/* One turn of a stream: the head with the role, then an event each, then finish, usage and [DONE]. Whether there is more. */
static int step(Conn *conn) {
    char event[1024], text[4096];
    int length = 0;
    const char *begin = "data: {\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion.chunk\",\"created\":%ld,\"model\":\"%s\",\"choices\":[";
    int prefix = snprintf(event, sizeof event, begin, conn->request_id, conn->created_s, conn->model);
    char *rest = event + prefix;
    size_t room = sizeof event - prefix;
    if (!conn->sent) {
        length = snprintf(text, sizeof text,
                          "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
        snprintf(rest, room,
                 "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],\"prompt_token_ids\":null}\n\n");
        length += chunk(text + length, sizeof text - length, event);
    }
    conn->sent++;
    int last = conn->sent >= conn->events;
    snprintf(rest, room, "{\"index\":0,\"delta\":{\"content\":\" token%ld\"},\"logprobs\":null,\"finish_reason\":%s,\"token_ids\":null}]}\n\n", conn->sent,
             last ? "\"length\",\"stop_reason\":null" : "null");
    length += chunk(text + length, sizeof text - length, event);
    if (last) {
        record(conn, 1);
        if (conn->wants_usage) {
            snprintf(rest, room, "],\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%ld,\"completion_tokens\":%ld}}\n\n", PROMPT_TOKENS,
                     PROMPT_TOKENS + conn->sent, conn->sent);
            length += chunk(text + length, sizeof text - length, event);
        }
        length += chunk(text + length, sizeof text - length, "data: [DONE]\n\n");
        length += snprintf(text + length, sizeof text - length, "0\r\n\r\n");
    }
    if (last) conn->streams = 0; /* counted: a client that goes now was answered in full */
    give(conn, text, length);
    return !last;
}

static const char *header(const char *head, const char *end, const char *name) {
    size_t size = strlen(name);
    for (const char *line = memchr(head, '\n', end - head); line && ++line < end; line = memchr(line, '\n', end - line))
        if ((size_t)(end - line) > size && !strncasecmp(line, name, size) && line[size] == ':') {
            for (line += size + 1; *line == ' ';) line++;
            return line;
        }
    return NULL;
}

static void copy(char *to, size_t room, const char *from, const char *stops) {
    size_t size = strcspn(from, stops);
    if (size >= room) size = room - 1;
    memcpy(to, from, size);
    to[size] = 0;
}

/* What follows `"key":` in a JSON text, wherever it is: good for the requests of a benchmark, not for strangers'. */
static const char *value(const char *body, const char *key) {
    char quoted[40];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *at = strstr(body, quoted);
    if (!at) return NULL;
    at += strlen(quoted);
    return at + strspn(at, " :\t\r\n");
}

static void begin(Conn *conn, const char *head, const char *head_end, const char *body) {
    const char *at;
    if (!strncmp(head, "GET /health", 11) || !strncmp(head, "GET /kiva/generating", 20)) return answer(conn, 200, "{}");
    if (!strncmp(head, "GET /v1/models", 14))
        return answer(conn, 200, "{\"object\":\"list\",\"data\":[{\"id\":\"demo\",\"object\":\"model\",\"created\":1,\"owned_by\":\"vllm\",\"max_model_len\":2048}]}");
    if (strncmp(head, "POST /v1/chat/completions", 25))
        return answer(conn, 404, "{\"error\":{\"message\":\"Not Found\",\"type\":\"NotFoundError\",\"param\":null,\"code\":404}}");
    static long number;
    if ((at = header(head, head_end, "x-request-id"))) copy(conn->request_id, sizeof conn->request_id, at, "\r\n");
    else snprintf(conn->request_id, sizeof conn->request_id, "%032lx", ++number);
    conn->created_s = time(NULL); /* as vLLM: when the answer began, the same in all its events */
    copy(conn->model, sizeof conn->model, (at = value(body, "model")) && *at == '"' ? at + 1 : "demo", "\"");
    conn->events = ((at = value(body, "max_tokens")) || (at = value(body, "max_completion_tokens"))) ? atol(at) : default_events;
    if (conn->events < 1) conn->events = default_events;
    conn->streams = (at = value(body, "stream")) && !strncmp(at, "true", 4);
    conn->wants_usage = (at = value(body, "include_usage")) && !strncmp(at, "true", 4);
    conn->pace_ns = (at = value(body, "seed")) ? atoll(at) * 1000 : 0;
    conn->sent = 0;
    if (!conn->streams && !conn->pace_ns) return answer_whole(conn);
    conn->busy = 1;
    conn->due_ns = now_ns() + conn->pace_ns;
    push(conn);
}

static void take_requests(Conn *conn) {
    while (!conn->busy && !conn->closed && conn->in_len) {
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
        char kept = body[size];
        body[size] = 0;
        begin(conn, conn->in, head_end + 2, body);
        body[size] = kept;
        conn->in_len = have - size;
        memmove(conn->in, body + size, conn->in_len);
    }
}

static void take_turn(void) {
    Conn *conn = pop();
    if (!conn->closed && conn->streams && step(conn) && !conn->closed) {
        conn->due_ns = conn->pace_ns ? conn->due_ns + conn->pace_ns : now_ns();
        return push(conn);
    }
    if (!conn->closed && !conn->streams && !conn->sent) answer_whole(conn);
    conn->busy = 0;
    if (conn->closed) {
        conn->next = to_free;
        to_free = conn;
    } else take_requests(conn);
}

static void accept_all(const Listener *listener) {
    for (;;) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
        if (fd < 0) return;
        if (listener->is_tcp) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Conn *conn = calloc(1, sizeof *conn);
        if (!conn) die("calloc");
        conn->fd = fd;
        conn->listener = listener;
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = conn};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    }
}

static void add_listener(const char *where, const char *file, const char *replica) {
    if (listener_count == MAX_LISTENERS) die("too many listeners");
    Listener *listener = &listeners[listener_count++];
    int on = 1, bound;
    *listener = (Listener){.is_tcp = !strncmp(where, "tcp:", 4), .record = file, .replica = replica};
    listener->fd = socket(listener->is_tcp ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener->is_tcp) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(where + 4)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        bound = bind(listener->fd, (struct sockaddr *)&address, sizeof address);
    } else {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        const char *path = strncmp(where, "unix:", 5) ? where : where + 5;
        if (strlen(path) >= sizeof address.sun_path) errno = ENAMETOOLONG, die(path);
        strcpy(address.sun_path, path);
        unlink(path);
        bound = bind(listener->fd, (struct sockaddr *)&address, sizeof address);
    }
    if (bound || listen(listener->fd, 4096)) die(where);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = listener};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener->fd, &event)) die("epoll_ctl");
}

static void run(void) {
    struct epoll_event events[512];
    for (;;) {
        int64_t wait = waiting_count ? waiting[0]->due_ns - now_ns() : 0;
        struct timespec timeout = {wait > 0 ? wait / 1000000000 : 0, wait > 0 ? wait % 1000000000 : 0};
        int count = epoll_pwait2(epoll_fd, events, 512, waiting_count ? &timeout : NULL, NULL);
        if (count < 0 && errno != EINTR) die("epoll_pwait2");
        for (int i = 0; i < count; i++) {
            Listener *listener = events[i].data.ptr;
            if (listener >= listeners && listener < listeners + MAX_LISTENERS) {
                accept_all(listener);
                continue;
            }
            Conn *conn = events[i].data.ptr;
            if (!conn->closed && events[i].events & EPOLLOUT) writable(conn);
            if (!conn->closed && events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) readable(conn);
        }
        int64_t now = now_ns(); /* what becomes due meanwhile waits for the next turn, so that requests are read between */
        while (waiting_count && waiting[0]->due_ns <= now) take_turn();
        while (to_free) {
            Conn *conn = to_free;
            to_free = conn->next;
            free(conn->in);
            free(conn->out);
            free(conn);
        }
    }
}

int main(int argc, char **argv) {
    const char *file = NULL, *replica = "demo-0";
    signal(SIGPIPE, SIG_IGN);
    if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll_create1");
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *option = argv[i], *text = argv[i + 1];
        if (!strcmp(option, "--events")) default_events = atol(text);
        else if (!strcmp(option, "--record")) file = strcmp(text, "-") ? text : NULL;
        else if (!strcmp(option, "--replica")) replica = text;
        else if (!strcmp(option, "--listen")) add_listener(text, file, replica);
        else return fprintf(stderr, "unknown option %s\n", option), 2;
    }
    if (!listener_count) return fprintf(stderr, "nothing to listen on: give --listen tcp:PORT or unix:PATH\n"), 2;
    puts("ready");
    fflush(stdout);
    run();
}
