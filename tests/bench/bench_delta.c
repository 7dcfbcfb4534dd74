/* bench_delta: what deltas cost beside general tools, on updates that this project's learner made.
 *   bench_delta [--tools] [--loops N] BASE.flm TARGET.flm...
 * For each pair: bytes of every way to ship the target, in percent of the full float32 model and
 * per live value and against the best general tool (bsdiff, xdelta3 -9, zstd -19, zstd
 * --patch-from; without --tools, or where one is not installed, the row says so); the entropy
 * floor; apply speed on one core with hashing apart; peak memory of apply. bench_delta.sh trains
 * updates and runs all.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "codec.h"
#include "delta/file.h"

struct bench {
    const char *base_path, *target_path;
    char dir[64];
    struct delta_model base, target;
    double full; /* bytes of all values of the target */
    double live; /* values that are live by the plan */
    double best; /* bytes of the best general tool; 0: none ran */
    int loops;
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what, const struct delta_error *err)
{
    fprintf(stderr, "bench_delta: %s: %s\n", what, err->text);
    exit(3);
}

static void print_row(const struct bench *b, const char *name, double bytes, const char *more)
{
    printf("| %-34s | %10.0f | %7.3f | %5.2f |", name, bytes, 100 * bytes / b->full,
           8 * bytes / b->live);
    if (b->best > 0)
        printf(" %6.3f |", bytes / b->best);
    else
        printf("      - |");
    printf(" %s |\n", more);
}

/* ---- general tools ---- */

static int is_installed(const char *tool)
{
    char command[128];

    snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", tool);
    return system(command) == 0;
}

/* Runs one tool; its own time and peak go into `more`. */
static double run_tool(const struct bench *b, const char *format, char more[64])
{
    char command[2048], out[128];
    struct rusage usage;
    struct timespec from, to;
    struct stat info;
    int status;

    snprintf(out, sizeof out, "%s/out", b->dir);
    unlink(out);
    snprintf(command, sizeof command, "B='%s' T='%s' O='%s'; %s >/dev/null 2>&1", b->base_path,
             b->target_path, out, format);
    clock_gettime(CLOCK_MONOTONIC, &from);
    const pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    if (child < 0 || wait4(child, &status, 0, &usage) != child || status || stat(out, &info)) {
        snprintf(more, 64, "FAILED");
        return 0;
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    snprintf(more, 64, "%.1f s, %ld MB",
             (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec),
             usage.ru_maxrss / 1024);
    return (double)info.st_size;
}

static void run_tools(struct bench *b, int asked)
{
    static const struct {
        const char *name, *tool, *command;
    } rows[] = {
        {"zstd -19", "zstd", "zstd -q -f -19 \"$T\" -o \"$O\""},
        {"xdelta3 -9", "xdelta3", "xdelta3 -e -9 -f -B 268435456 -s \"$B\" \"$T\" \"$O\""},
        {"bsdiff", "bsdiff", "bsdiff \"$B\" \"$T\" \"$O\""},
        {"zstd -19 --patch-from", "zstd",
         "zstd -q -f -19 --long=27 --patch-from=\"$B\" \"$T\" -o \"$O\""},
    };
    struct {
        double bytes;
        char more[64];
    } got[4] = {{0, ""}};

    for (int i = 0; i < 4; i++) {
        if (!asked)
            snprintf(got[i].more, sizeof got[i].more, "SKIP: --tools was not given");
        else if (!is_installed(rows[i].tool))
            snprintf(got[i].more, sizeof got[i].more, "SKIP: %s is not installed", rows[i].tool);
        else
            got[i].bytes = run_tool(b, rows[i].command, got[i].more);
        if (got[i].bytes > 0 && (b->best <= 0 || got[i].bytes < b->best))
            b->best = got[i].bytes;
    }
    for (int i = 0; i < 4; i++)
        print_row(b, rows[i].name, got[i].bytes, got[i].more);
}

/* ---- ours ---- */

/* Seconds to turn the base's values into the target's: copying and decoding, no hashing. */
static double decode_seconds(const struct bench *b, const struct delta_reader *reader)
{
    struct delta_error err = DELTA_ERROR_INIT;
    uint32_t *data = delta_calloc_aligned((size_t)(b->full / 4), 4);
    double best = 1e9;

    if (!data)
        die("memory", &err);
    for (int loop = 0; loop < b->loops; loop++) {
        const double start = now();
        uint32_t *at = data;
        size_t e = 0;
        for (size_t i = 0; i < b->base.tensor_count; i++) {
            struct delta_tensor tensor = b->base.tensors[i];
            memcpy(at, tensor.data, tensor.count * 4);
            for (e = 0; e < reader->entry_count; e++)
                if (strcmp(reader->entries[e].name, tensor.name) == 0)
                    break;
            if (e < reader->entry_count) {
                const struct delta_entry *entry = &reader->entries[e];
                const struct delta_coding coding = {entry->encoding, delta_entry_scope(entry),
                                                    (size_t)entry->elements};
                struct delta_pull pull;
                const size_t old = tensor.count;
                tensor.count = tensor.count / (size_t)tensor.shape[0] * (size_t)entry->shape[0];
                tensor.shape[0] = entry->shape[0];
                memset(at + old, 0, (tensor.count - old) * 4);
                delta_pull_memory(
                    &pull, delta_bytes(reader->payload.data + entry->offset, (size_t)entry->bytes));
                if (delta_codec_decode(&coding, &pull, &tensor, old, at, &err))
                    die(entry->name, &err);
            }
            at += tensor.count;
        }
        const double took = now() - start;
        best = took < best ? took : best;
    }
    free(data);
    return best;
}

/* Peak of `bench_delta --apply` in MiB more than that of `bench_delta --nothing`. */
static double apply_memory(const struct bench *b, const char *delta)
{
    char command[2048], self[512];
    double kib[2] = {0, 0};
    const ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);

    self[len < 0 ? 0 : len] = '\0';
    for (int i = 0; i < 2; i++) {
        snprintf(command, sizeof command, "'%s' %s '%s' '%s' '%s/applied'", self,
                 i ? "--apply" : "--nothing", b->base_path, delta, b->dir);
        FILE *child = popen(command, "r");
        if (!child || fscanf(child, "%lf", &kib[i]) != 1 || pclose(child) != 0)
            return -1;
    }
    return (kib[1] - kib[0]) / 1024;
}

static void run_ours(const struct bench *b, const char *name, const struct delta_options *options,
                     int detailed)
{
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_reader reader;
    struct delta_buf file;
    char more[96], path[128];
    const double start = now();

    if (delta_diff(&b->base, &b->target, options, &file, &err))
        die(name, &err);
    const double encode = now() - start;
    if (delta_reader_init(&reader, delta_buf_bytes(&file), &err))
        die(name, &err);
    const double seconds = decode_seconds(b, &reader);
    snprintf(more, sizeof more, "made in %.1f s; applies at %.1f GB/s", encode,
             b->full / seconds * 1e-9);
    if (detailed) {
        snprintf(path, sizeof path, "%s/d.fld", b->dir);
        if (delta_file_write(path, delta_buf_bytes(&file), 0644, &err))
            die(path, &err);
        const size_t used = strlen(more);
        snprintf(more + used, sizeof more - used, ", %.1f MB", apply_memory(b, path));
    }
    print_row(b, name, (double)file.len, more);
    delta_reader_release(&reader);
    delta_buf_release(&file);
}

/* The floor of one tensor, with the target's rows as the codec sees it; values of new rows are
 * zeros before. */
static double floor_of_tensor(const struct bench *b, size_t i, int positions)
{
    struct delta_tensor tensor = b->base.tensors[i];
    const struct delta_tensor *target = delta_model_find(&b->target, tensor.name);
    uint32_t *base = delta_calloc(target->count, 4);
    const size_t old = tensor.count;
    double bytes = 0;

    if (!base)
        exit(3);
    memcpy(base, tensor.data, old * 4);
    memcpy(tensor.shape, target->shape, sizeof tensor.shape);
    tensor.count = target->count;
    const struct delta_codec_job job = {.tensor = &tensor,
                                        .base_count = old,
                                        .base = base,
                                        .target = (const uint32_t *)(const void *)target->data};
    if (memcmp(base, target->data, target->count * 4) != 0)
        bytes = delta_codec_floor_bytes(
            &job, positions ? DELTA_SCOPE_SOME : delta_codec_scope(&tensor, old, base, job.target));
    free(base);
    return bytes;
}

static double floor_of(const struct bench *b, int positions)
{
    double bytes = 0;

    for (size_t i = 0; i < b->base.tensor_count; i++)
        bytes += floor_of_tensor(b, i, positions);
    return bytes;
}

/* Where a lossless delta's bytes go: the classifier (rows that grow), the filters, and the rest;
 * what a live value costs there beside its 32 bits and beside its floor. */
static void run_parts(const struct bench *b)
{
    static const char *const names[] = {"classifier", "filters", "scales and shifts"};
    struct {
        double all, live, bytes, floor;
    } parts[3] = {{0, 0, 0, 0}};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_reader reader;
    struct delta_buf file;
    double values = 0;

    if (delta_diff(&b->base, &b->target, NULL, &file, &err) ||
        delta_reader_init(&reader, delta_buf_bytes(&file), &err))
        die("parts", &err);
    for (size_t i = 0; i < b->base.tensor_count; i++) {
        const struct delta_tensor *tensor = &b->base.tensors[i];
        const struct delta_tensor *target = delta_model_find(&b->target, tensor->name);
        const int at = target->shape[0] != tensor->shape[0] ? 0 : tensor->rank > 1 ? 1 : 2;
        parts[at].all += (double)target->count;
        parts[at].live += (double)delta_tensor_live_count(target);
        parts[at].floor += floor_of_tensor(b, i, 0);
        for (size_t e = 0; e < reader.entry_count; e++)
            if (strcmp(reader.entries[e].name, tensor->name) == 0)
                parts[at].bytes += (double)reader.entries[e].bytes;
    }
    printf("\n| part | values | live | %% of all | bytes | bits a live value | floor |\n"
           "|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < 3; i++) {
        const double live = parts[i].live > 0 ? parts[i].live : 1;
        printf("| %-18s | %8.0f | %8.0f | %6.2f | %9.0f | %5.2f | %5.2f |\n", names[i],
               parts[i].all, parts[i].live, 400 * parts[i].live / b->full, parts[i].bytes,
               8 * parts[i].bytes / live, 8 * parts[i].floor / live);
        values += parts[i].bytes;
    }
    printf("| %-18s | | | | %9.0f | %5.2f | |\n", "header, padding", (double)file.len - values,
           8 * ((double)file.len - values) / b->live);
    delta_reader_release(&reader);
    delta_buf_release(&file);
}

/* The same update for a base whose plan freezes nothing: positions must travel. */
static void drop_plan(struct delta_model *model)
{
    struct delta_error err = DELTA_ERROR_INIT;

    for (size_t i = 0; i < model->tensor_count; i++)
        if (delta_tensor_set_freeze(&model->tensors[i], DELTA_FREEZE_LIVE, NULL, 0, &err))
            die("plan", &err);
}

static void run_pair(struct bench *b, int tools)
{
    static const struct {
        const char *name;
        struct delta_options options;
    } rows[] = {
        {"lossless, as the device makes it", {.encoding = DELTA_CHOICE_AUTO}},
        {"  cell alone", {.encoding = DELTA_CHOICE_CELL}},
        {"  diff alone, level 19", {.encoding = DELTA_CHOICE_DIFF, .zstd_level = 19}},
        {"  XOR (zstd) alone, level 19", {.encoding = DELTA_CHOICE_ZSTD, .zstd_level = 19}},
        {"bf16", {.encoding = DELTA_CHOICE_BF16}},
        {"int8, step 0.25", {.encoding = DELTA_CHOICE_INT8, .step = 0.25}},
        {"int8, step 0.5 (default)", {.encoding = DELTA_CHOICE_INT8}},
        {"int8, step 1", {.encoding = DELTA_CHOICE_INT8, .step = 1}},
        {"int8, step 2", {.encoding = DELTA_CHOICE_INT8, .step = 2}},
    };
    struct delta_error err = DELTA_ERROR_INIT;

    if (delta_model_load(&b->base, b->base_path, NULL, &err) ||
        delta_model_load(&b->target, b->target_path, NULL, &err))
        die("models", &err);
    b->full = 0;
    b->live = 0;
    b->best = 0;
    for (size_t i = 0; i < b->target.tensor_count; i++) {
        b->full += 4.0 * (double)b->target.tensors[i].count;
        b->live += (double)delta_tensor_live_count(&b->target.tensors[i]);
    }
    printf("\n%s -> %s: %.0f values, %.2f %% of them live by the plan\n\n", b->base_path,
           b->target_path, b->full / 4, 400.0 * b->live / b->full);
    printf("| way | bytes | %% of full | bits a live value | of best tool | |\n"
           "|---|---|---|---|---|---|\n");
    run_tools(b, tools);
    print_row(b, "floor: entropy of cells + places", floor_of(b, 0), "values alone");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        run_ours(b, rows[i].name, &rows[i].options, i == 0);
    run_parts(b);
    printf("\n| way | bytes | %% of full | bits a live value | of best tool | |\n"
           "|---|---|---|---|---|---|\n");
    drop_plan(&b->base);
    drop_plan(&b->target);
    print_row(b, "floor with positions", floor_of(b, 1), "values and positions");
    run_ours(b, "lossless, no shared plan", &rows[0].options, 0);
    run_ours(b, "int8, step 0.5, no shared plan", &rows[6].options, 0);
    delta_model_release(&b->base);
    delta_model_release(&b->target);
}

/* Peak of this process in KiB. */
static int print_peak(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];

    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "VmHWM:", 6) == 0)
            printf("%ld\n", strtol(line + 6, NULL, 10));
    if (file)
        fclose(file);
    return 0;
}

int main(int argc, char **argv)
{
    struct bench b = {.dir = "/tmp/bench_delta-XXXXXX", .loops = 5};
    char command[128];
    int tools = 0, first = 1;

    if (argc == 5 && strcmp(argv[1], "--nothing") == 0)
        return print_peak();
    if (argc == 5 && strcmp(argv[1], "--apply") == 0)
        return delta_apply_file(argv[2], argv[3], argv[4], NULL, NULL, NULL) ? 1 : print_peak();
    for (; first < argc && argv[first][0] == '-'; first++) {
        if (strcmp(argv[first], "--tools") == 0)
            tools = 1;
        else if (strcmp(argv[first], "--loops") == 0 && first + 1 < argc)
            b.loops = (int)strtol(argv[++first], NULL, 10);
        else
            first = argc;
    }
    if (argc - first < 2) {
        fprintf(stderr, "usage: bench_delta [--tools] [--loops N] BASE.flm TARGET.flm...\n");
        return 2;
    }
    if (!mkdtemp(b.dir))
        return 6;
    for (int i = first + 1; i < argc; i++) {
        b.base_path = argv[first];
        b.target_path = argv[i];
        run_pair(&b, tools);
        fflush(stdout);
    }
    snprintf(command, sizeof command, "rm -rf '%s'", b.dir);
    return system(command) ? 6 : 0;
}
