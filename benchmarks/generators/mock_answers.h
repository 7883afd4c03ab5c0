/* What the mock engine says: vLLM's answers, byte for byte in form; and what it reads of a request. Pure but for the clock. */
#include <strings.h>
#include <sys/resource.h>
#include <time.h>

#include "mock_options.h"

#define STAMP_DIGITS 19
#define WORD " the" /* one token in every tokenizer worth the name */

/* One request and the truth about it. Events are counted from 0; an answer that is no stream has one. */
typedef struct {
    long number, connection, tokens, events, sent;
    size_t bytes;
    enum Fault fault;
    int is_chat, streams, wants_usage, wants_usage_always, is_served, has_head, has_role;
    long created_s;
    int64_t accepted_ns, arrived_ns, base_ns, *due_ns, *sent_ns;
    char id[64], model[96];
    const char *how;
} Request;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* The present moment; written over the place that `event` left for it, where there is one. */
static int64_t stamp(char *place, int is_shown) {
    int64_t now = now_ns(), rest = now;
    if (!is_shown) return now;
    for (int i = STAMP_DIGITS; i--; rest /= 10) place[i] = '0' + rest % 10;
    return now;
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

/* What follows `"key":` near an end of a JSON text: a prompt of 300 kB lies between, and reading it would make events late. */
static const char *value(const char *body, size_t size, const char *key) {
    char quoted[40];
    int length = snprintf(quoted, sizeof quoted, "\"%s\"", key);
    size_t part = size < 1024 ? size : 1024;
    const char *at = memmem(body + size - part, part, quoted, length);
    if (!at) at = memmem(body, part, quoted, length);
    if (!at) return NULL;
    at += length;
    return at + strspn(at, " :\t\r\n");
}

static int is_true(const char *body, size_t size, const char *key) {
    const char *at = value(body, size, key);
    return at && !strncmp(at, "true", 4);
}

/* Every kind's share is spread evenly over the requests; no kind begins where another does. The first request is a generator's look at
 * whether anything answers, and is faulty only where all are. */
static enum Fault fault_for(long number, const Options *options) {
    for (int kind = 1; kind < FAULTS; kind++) {
        double share = options->fault_percent[kind] / 100, turn = number + 3 * kind;
        if (!number && share < 1) continue;
        if ((long)((turn + 1) * share + 1e-9) != (long)(turn * share + 1e-9)) return kind;
    }
    return NONE;
}

static void read_request(Request *request, const Options *options, const char *head, const char *head_end, const char *body, size_t size) {
    const char *at;
    request->bytes = size;
    if ((at = header(head, head_end, "x-request-id"))) copy(request->id, sizeof request->id, at, "\r\n\"\\");
    else snprintf(request->id, sizeof request->id, "%032lx", request->number);
    copy(request->model, sizeof request->model, (at = value(body, size, "model")) && *at == '"' ? at + 1 : options->model, "\"\\");
    request->tokens = options->tokens;
    if (!request->tokens && ((at = value(body, size, "max_completion_tokens")) || (at = value(body, size, "max_tokens")))) request->tokens = atol(at);
    if (request->tokens < 1) request->tokens = 16;
    request->streams = is_true(body, size, "stream");
    request->wants_usage = is_true(body, size, "include_usage");
    request->wants_usage_always = is_true(body, size, "continuous_usage_stats");
    request->events = request->streams ? (request->tokens + options->tokens_per_event - 1) / options->tokens_per_event : 1;
    request->fault = fault_for(request->number, options);
}

static int other_answer(char *text, size_t room, const char *head, const char *model) {
    char body[512];
    int status = 200;
    if (!strncmp(head, "GET /v1/models", 14))
        snprintf(body, sizeof body,
                 "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":1,\"owned_by\":\"vllm\",\"root\":\"%s\",\"parent\":null,"
                 "\"max_model_len\":131072}]}",
                 model, model);
    else if (!strncmp(head, "GET /health", 11) || !strncmp(head, "GET / ", 6)) *body = 0;
    else if (!strncmp(head, "GET /version", 12)) strcpy(body, "{\"version\":\"0.0.0\"}");
    else status = 404, strcpy(body, "{\"error\":{\"message\":\"Not Found\",\"type\":\"NotFoundError\",\"param\":null,\"code\":404}}");
    return snprintf(text, room, "HTTP/1.1 %d %s\r\nserver: uvicorn\r\ncontent-length: %zu\r\ncontent-type: application/json\r\n\r\n%s", status,
                    status == 200 ? "OK" : "Not Found", strlen(body), body);
}

static int refusal(char *text, size_t room) {
    const char *body = "{\"error\":{\"message\":\"The engine takes no more requests\",\"type\":\"ServiceUnavailableError\",\"param\":null,\"code\":503}}";
    const char *head = "HTTP/1.1 503 Service Unavailable\r\nserver: uvicorn\r\ncontent-length: %zu\r\ncontent-type: application/json\r\n\r\n%s";
    return snprintf(text, room, head, strlen(body), body);
}

static long prompt_tokens(const Request *request) { return request->bytes / 4 + 1; }

static int usage(char *text, size_t room, const Request *request, long tokens) {
    return snprintf(text, room, "\"usage\":{\"prompt_tokens\":%ld,\"total_tokens\":%ld,\"completion_tokens\":%ld}", prompt_tokens(request),
                    prompt_tokens(request) + tokens, tokens);
}

static const char *words(long count) {
    static char text[MOST_TOKENS_PER_EVENT * (sizeof WORD - 1) + 1];
    if (!*text)
        for (int i = 0; i < MOST_TOKENS_PER_EVENT; i++) memcpy(text + i * (sizeof WORD - 1), WORD, sizeof WORD - 1);
    return text + sizeof text - 1 - (count < MOST_TOKENS_PER_EVENT ? count : MOST_TOKENS_PER_EVENT) * (sizeof WORD - 1);
}

static int whole_answer(char *text, size_t room, const Request *request, const Options *options) {
    char body[4096], counted[128];
    usage(counted, sizeof counted, request, request->tokens);
    if (request->is_chat)
        snprintf(body, sizeof body,
                 "{\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion\",\"created\":%ld,\"model\":\"%s\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
                 "\"assistant\",\"content\":\"%s\",\"refusal\":null,\"annotations\":null,\"audio\":null,\"function_call\":null,\"tool_calls\":[],"
                 "\"%s\":null},\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null}],%s}",
                 request->id, request->created_s, request->model, words(request->tokens), options->reasoning_field, counted);
    else
        snprintf(body, sizeof body,
                 "{\"id\":\"cmpl-%s\",\"object\":\"text_completion\",\"created\":%ld,\"model\":\"%s\",\"choices\":[{\"index\":0,\"text\":\"%s\","
                 "\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null}],%s}",
                 request->id, request->created_s, request->model, words(request->tokens), counted);
    return snprintf(text, room, "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: %zu\r\ncontent-type: application/json\r\n\r\n%s", strlen(body), body);
}

static int stream_head(char *text, size_t room) {
    return snprintf(text, room,
                    "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
}

static int chunk(char *text, size_t room, const char *data) { return snprintf(text, room, "%zx\r\n%s\r\n", strlen(data), data); }

static int prefix(char *data, size_t room, const Request *request) {
    return snprintf(data, room, "data: {\"id\":\"%s-%s\",\"object\":\"%s\",\"created\":%ld,\"model\":\"%s\",\"choices\":[",
                    request->is_chat ? "chatcmpl" : "cmpl", request->id, request->is_chat ? "chat.completion.chunk" : "text_completion", request->created_s,
                    request->model);
}

static int role(char *text, size_t room, const Request *request) {
    char data[1024];
    int length = prefix(data, sizeof data, request);
    length += snprintf(data + length, sizeof data - length,
                       "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],\"prompt_token_ids\":null");
    if (request->wants_usage_always) data[length++] = ',', length += usage(data + length, sizeof data - length, request, 0);
    snprintf(data + length, sizeof data - length, "}\n\n");
    return chunk(text, room, data);
}

/* What ends a stream, from the usage on. */
static int stream_end(char *text, size_t room, const Request *request, long tokens) {
    char data[1024];
    int length = 0;
    if (request->wants_usage) {
        int size = prefix(data, sizeof data, request);
        size += snprintf(data + size, sizeof data - size, "],");
        size += usage(data + size, sizeof data - size, request, tokens);
        snprintf(data + size, sizeof data - size, "}\n\n");
        length += chunk(text, room, data);
    }
    length += chunk(text + length, room - length, "data: [DONE]\n\n");
    return length + snprintf(text + length, room - length, "0\r\n\r\n");
}

/* The next event of a stream, the role before the first and the end behind the last; `mark`: where its moment is to be stamped, near its end. */
static int event(char *text, size_t room, int *mark, const Request *request, const Options *options) {
    char data[2048];
    long before = request->sent * options->tokens_per_event, count = options->tokens_per_event, after = before + count;
    int is_last = request->sent + 1 == request->events, length = 0;
    if (is_last) after = request->tokens, count = after - before;
    if (request->is_chat && !request->has_role) length = role(text, room, request);
    int size = prefix(data, sizeof data, request);
    const char *finish = is_last ? "\"length\",\"stop_reason\":null" : "null";
    if (request->is_chat)
        size += snprintf(data + size, sizeof data - size, "{\"index\":0,\"delta\":{\"%s\":\"%s\"},\"logprobs\":null,\"finish_reason\":%s,\"token_ids\":null}]",
                         before < options->reasoning_tokens ? options->reasoning_field : "content", words(count), finish);
    else
        size += snprintf(data + size, sizeof data - size, "{\"index\":0,\"text\":\"%s\",\"logprobs\":null,\"finish_reason\":%s%s,\"token_ids\":null}]",
                         words(count), finish, is_last ? "" : ",\"stop_reason\":null");
    if (request->wants_usage_always) data[size++] = ',', size += usage(data + size, sizeof data - size, request, after);
    if (options->stamps) size += snprintf(data + size, sizeof data - size, ",\"t_ns\":\"%0*d\"", STAMP_DIGITS, 0);
    size += snprintf(data + size, sizeof data - size, "}\n\n");
    length += chunk(text + length, room - length, data);
    *mark = length - 2 - 4 - (options->stamps ? STAMP_DIGITS : 0); /* before the quote, the brace, two line feeds; and the chunk's CR LF */
    if (request->fault == GARBAGE && request->sent == request->events / 2)
        length += chunk(text + length, room - length, "data: {\"id\":\"chatcmpl-0\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" th\n\n");
    if (is_last) length += stream_end(text + length, room - length, request, after);
    return length;
}

/* How a faulty stream ends in its middle. */
static int broken_end(char *text, size_t room, const Request *request) {
    if (request->fault == TRUNCATED) return snprintf(text, room, "1ff\r\ndata: {\"id\":\"chatcmpl-%s\",\"object\":\"chat.comp", request->id);
    if (request->fault == UNFINISHED) return snprintf(text, room, "0\r\n\r\n");
    int length = chunk(text, room,
                       "data: {\"error\":{\"message\":\"EngineCore encountered an issue\",\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}\n\n");
    length += chunk(text + length, room - length, "data: [DONE]\n\n");
    return length + snprintf(text + length, room - length, "0\r\n\r\n");
}

/* A line for each request, and one about all. Returns 0 when it could not be written. */
static int write_truth(Request **requests, size_t request_count, long connection_count) {
    FILE *file = fopen(options.truth, "w");
    struct rusage used;
    if (!file) return 0;
    for (size_t i = 0; i < request_count; i++) {
        Request *r = requests[i];
        fprintf(file,
                "{\"number\": %ld, \"id\": \"%s\", \"connection\": %ld, \"chat\": %s, \"stream\": %s, \"bytes\": %zu, \"tokens\": %ld, \"fault\": \"%s\", "
                "\"how\": \"%s\", \"accepted_ns\": %ld, \"arrived_ns\": %ld, \"due_ns\": [",
                r->number, r->id, r->connection, r->is_chat ? "true" : "false", r->streams ? "true" : "false", r->bytes, r->tokens, fault_names[r->fault],
                r->how, r->accepted_ns, r->arrived_ns);
        for (long j = 0; j < r->sent; j++) fprintf(file, j ? ", %ld" : "%ld", r->due_ns[j]);
        fprintf(file, "], \"sent_ns\": [");
        for (long j = 0; j < r->sent; j++) fprintf(file, j ? ", %ld" : "%ld", r->sent_ns[j]);
        fprintf(file, "]}\n");
    }
    getrusage(RUSAGE_SELF, &used);
    fprintf(file, "{\"requests\": %zu, \"connections\": %ld, \"cpu_s\": %.3f}\n", request_count, connection_count,
            used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    return !fclose(file);
}
