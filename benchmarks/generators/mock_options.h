/* The mock engine's options, as mock_engine.c tells them. */
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_TOKENS_PER_EVENT 256

enum Fault { NONE, REFUSED, TRUNCATED, ERROR, GARBAGE, SILENT, UNFINISHED, FAULTS };
static const char *const fault_names[FAULTS] = {"", "refused", "truncated", "error", "garbage", "silent", "unfinished"};

typedef struct {
    int64_t ttft_ns, itl_ns, spread_ns, split_ns;
    long tokens, tokens_per_event, reasoning_tokens, capacity, port;
    int role_first, stamps;
    double fault_percent[FAULTS], freeze_at_s, freeze_for_s;
    const char *reasoning_field, *model, *truth;
} Options;

static Options options = {.ttft_ns = 200000000,
                          .itl_ns = 20000000,
                          .tokens_per_event = 1,
                          .reasoning_field = "reasoning",
                          .model = "demo"};

static void read_options(int count, char **words) {
    enum { STAMPS, TTFT, ITL, SPREAD, TOKENS, PER_EVENT, ROLE_FIRST, REASONING, REASONING_FIELD, SPLIT, FAULT, FREEZE, CAPACITY, TRUTH, PORT, MODEL };
    static const struct option known[] = {
        {"stamps", 0, 0, STAMPS}, {"ttft-us", 1, 0, TTFT}, {"itl-us", 1, 0, ITL}, {"spread-us", 1, 0, SPREAD}, {"tokens", 1, 0, TOKENS},
        {"tokens-per-event", 1, 0, PER_EVENT}, {"role-first", 0, 0, ROLE_FIRST}, {"reasoning", 1, 0, REASONING}, {"reasoning-field", 1, 0, REASONING_FIELD},
        {"split-us", 1, 0, SPLIT}, {"fault", 1, 0, FAULT}, {"freeze", 1, 0, FREEZE}, {"capacity", 1, 0, CAPACITY}, {"truth", 1, 0, TRUTH}, {"port", 1, 0, PORT},
        {"model", 1, 0, MODEL}, {0}};
    char name[16];
    double percent;
    int option, kind;
    while ((option = getopt_long(count, words, "", known, NULL)) != -1) switch (option) {
            case TTFT: options.ttft_ns = atoll(optarg) * 1000; break;
            case ITL: options.itl_ns = atoll(optarg) * 1000; break;
            case SPREAD: options.spread_ns = atoll(optarg) * 1000; break;
            case SPLIT: options.split_ns = atoll(optarg) * 1000; break;
            case TOKENS: options.tokens = atol(optarg); break;
            case PER_EVENT: options.tokens_per_event = atol(optarg); break;
            case REASONING: options.reasoning_tokens = atol(optarg); break;
            case CAPACITY: options.capacity = atol(optarg); break;
            case PORT: options.port = atol(optarg); break;
            case ROLE_FIRST: options.role_first = 1; break;
            case STAMPS: options.stamps = 1; break;
            case REASONING_FIELD: options.reasoning_field = optarg; break;
            case TRUTH: options.truth = optarg; break;
            case MODEL: options.model = optarg; break;
            case FAULT:
                if (sscanf(optarg, "%15[a-z]:%lf", name, &percent) != 2) exit(2);
                for (kind = 1; kind < FAULTS && strcmp(name, fault_names[kind]);) kind++;
                if (kind == FAULTS) exit(2);
                options.fault_percent[kind] = percent;
                break;
            case FREEZE:
                if (sscanf(optarg, "%lf:%lf", &options.freeze_at_s, &options.freeze_for_s) != 2) exit(2);
                break;
            default: exit(2);
        }
    if (!options.port || options.tokens_per_event < 1 || options.tokens_per_event > MOST_TOKENS_PER_EVENT) exit(2);
    if (options.split_ns >= options.itl_ns && options.split_ns) exit(2); /* an event's end would come after the next one's beginning */
}
