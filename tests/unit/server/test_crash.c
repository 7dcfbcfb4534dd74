/* The real program, killed and starved: nothing that was acknowledged is lost. */
#include "server_fleet.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "delta/file.h"

static void pause_ms(long ms)
{
    const struct timespec pause = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&pause, NULL);
}

/* Starts frostline-server run; file_limit: RLIMIT_FSIZE, 0 for none. */
static pid_t start(struct fleet *fleet, const char *extra, rlim_t file_limit)
{
    char port_file[320];
    struct delta_buf text;
    struct delta_error err = DELTA_ERROR_INIT;
    pid_t pid;

    snprintf(port_file, sizeof port_file, "%s/port", fleet->scratch.path);
    unlink(port_file);
    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct rlimit limit = {file_limit, file_limit};
        const char *program = harness_program("frostline-server");
        if (file_limit)
            setrlimit(RLIMIT_FSIZE, &limit);
        alarm(60); /* never outlives the test */
        if (!freopen(getenv("FLEET_VERBOSE") ? "/dev/stderr" : "/dev/null", "w", stderr))
            _exit(126);
        execl(program, program, "run", "--dir", fleet->dir, "--listen", "127.0.0.1:0",
              "--port-file", port_file, extra, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; !delta_file_exists(port_file); i++) {
        assert_true(i < 500);
        pause_ms(20);
    }
    assert_ok(delta_file_read(port_file, 16, &text, &err));
    char digits[17] = "";
    memcpy(digits, text.data, text.len);
    fleet->port = (uint16_t)strtoul(digits, NULL, 10);
    delta_buf_release(&text);
    return pid;
}

/* Ends it; returns the exit status, 128+signal when killed. */
static int finish(pid_t pid, int number)
{
    int status;

    kill(pid, number);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void killed_between_upload_and_merge(void **state)
{
    const struct learned fox = {.classes = {"fox"}, .row = 1, .new_samples = 9};
    struct server_contribution c;
    struct delta_digest digest;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    struct answer answer;
    struct device device;
    struct fleet fleet;
    pid_t pid;

    (void)state;
    fleet_make(&fleet);
    device_make(&device, &fleet, "cam-1");
    device_enrol_quietly(&device, &fleet);
    device_learn(&device, &fleet.base, &fox, &file);
    pid = start(&fleet, "--no-merge", 0);
    fleet_put(&fleet, &device, &file, &digest, &answer);
    assert_int_equal(answer.status, 201);
    answer_release(&answer);
    assert_int_equal(finish(pid, SIGKILL), 128 + SIGKILL);
    assert_ok(server_store_contribution(fleet.keeper.store, &digest, &c, &err));
    assert_int_equal(c.state, SERVER_CONTRIBUTION_PENDING);
    pid = start(&fleet, NULL, 0);
    fleet_await(&fleet, &digest, &c);
    assert_int_equal(c.state, SERVER_CONTRIBUTION_MERGED);
    assert_int_equal(finish(pid, SIGTERM), 0); /* drains and says goodbye */
    delta_buf_release(&file);
    device_release(&device);
    fleet_remove(&fleet);
}

/* Killed at a random moment while merges run, again and again: each contribution ends merged
 * exactly once, and the channel always names a version whose file is whole. */
static void killed_at_any_moment(void **state)
{
    struct delta_digest digests[6];
    struct delta_error err = DELTA_ERROR_INIT;
    struct device device;
    struct fleet fleet;
    unsigned seed = 7;
    pid_t pid;

    (void)state;
    fleet_make(&fleet);
    device_make(&device, &fleet, "cam-1");
    device_enrol_quietly(&device, &fleet);
    for (size_t i = 0; i < 6; i++) {
        static const char *const names[] = {"ant", "bat", "cow", "dog", "eel", "fox"};
        const struct learned one = {.classes = {names[i]}, .row = 1, .slice = 0.1f};
        struct delta_channel channel;
        struct server_version version;
        struct delta_model model;
        struct delta_buf file;
        struct answer answer;
        char path[SERVER_PATH_MAX];
        device_learn(&device, &fleet.base, &one, &file);
        pid = start(&fleet, NULL, 0);
        fleet_put(&fleet, &device, &file, &digests[i], &answer);
        assert_int_equal(answer.status, 201);
        answer_release(&answer);
        seed = seed * 1103515245 + 12345;
        pause_ms((long)(seed >> 16 & 255)); /* the merge timer ticks every 250 ms */
        finish(pid, SIGKILL);
        assert_ok(server_store_channel(fleet.keeper.store, "main", &channel, NULL, &err));
        assert_ok(server_store_version(fleet.keeper.store, &channel.version, &version, &err));
        server_places_blob(&fleet.keeper.places, &version.blob, path);
        assert_ok(delta_model_load(&model, path, NULL, &err));
        delta_model_release(&model);
        delta_buf_release(&file);
    }
    pid = start(&fleet, NULL, 0);
    for (size_t i = 0; i < 6; i++) {
        struct server_contribution c;
        fleet_await(&fleet, &digests[i], &c);
        assert_int_equal(c.state, SERVER_CONTRIBUTION_MERGED);
    }
    assert_int_equal(finish(pid, SIGTERM), 0);
    struct delta_channel channel;
    struct server_version version;
    struct delta_model model;
    char path[SERVER_PATH_MAX];
    assert_ok(server_store_channel(fleet.keeper.store, "main", &channel, NULL, &err));
    assert_ok(server_store_version(fleet.keeper.store, &channel.version, &version, &err));
    server_places_blob(&fleet.keeper.places, &version.blob, path);
    assert_ok(delta_model_load(&model, path, NULL, &err));
    assert_int_equal(model.class_count, 3 + 6);
    delta_model_release(&model);
    device_release(&device);
    fleet_remove(&fleet);
}

/* A full disk, simulated by a limit on file sizes: 503 NO_SPACE, and the upload goes on later. */
static void full_disk_is_told_and_survived(void **state)
{
    const struct learned fox = {.classes = {"fox"}, .row = 1, .new_samples = 9};
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_digest digest;
    struct delta_buf file, pad;
    struct answer answer;
    struct device device;
    struct fleet fleet;
    char header[100];
    long have;
    pid_t pid;

    (void)state;
    fleet_make(&fleet);
    device_make(&device, &fleet, "cam-1");
    device_enrol_quietly(&device, &fleet);
    device_learn(&device, &fleet.base, &fox, &file);
    digest = delta_sha256(delta_buf_bytes(&file));
    const char *path = fleet_path("contribution", &digest);
    /* an upload of which the limit lets only the first 1000 bytes through would trip the database
     * too: so announce a size whose part lies far behind the limit instead */
    delta_buf_init(&pad, 1 << 20);
    assert_ok(delta_buf_extend(&pad, 600000, NULL, &err));
    const struct delta_digest big = delta_sha256(delta_buf_bytes(&pad));
    pid = start(&fleet, "--no-merge", 512 * 1024);
    const struct call whole = {.method = "PUT",
                               .path = fleet_path("contribution", &big),
                               .body = pad.data,
                               .body_len = pad.len};
    fleet_call(&fleet, &device, &whole, &answer);
    assert_refused(&answer, 503, "NO_SPACE");
    assert_non_null(strstr(answer.headers, "Retry-After"));
    answer_release(&answer);
    const struct call head = {.method = "HEAD", .path = whole.path};
    fleet_call(&fleet, &device, &head, &answer);
    assert_int_equal(answer.status, 200); /* what fitted is kept */
    have = strtol(strstr(answer.headers, "Upload-Offset: ") + 15, NULL, 10);
    assert_in_range(have, 400000, 512 * 1024);
    answer_release(&answer);
    /* the coordinator still works for what fits */
    const struct call small = {
        .method = "PUT", .path = path, .body = file.data, .body_len = file.len};
    fleet_call(&fleet, &device, &small, &answer);
    assert_int_equal(answer.status, 201);
    answer_release(&answer);
    assert_int_equal(finish(pid, SIGTERM), 0);
    /* space again: the rest is enough (and, being zeros, is refused for what it is) */
    pid = start(&fleet, "--no-merge", 0);
    snprintf(header, sizeof header, "Content-Range: bytes %ld-%zu/%zu", have, pad.len - 1, pad.len);
    const struct call rest = {.method = "PUT",
                              .path = whole.path,
                              .header = header,
                              .body = pad.data + have,
                              .body_len = pad.len - (size_t)have};
    fleet_call(&fleet, &device, &rest, &answer);
    assert_refused(&answer, 422, "FORMAT");
    answer_release(&answer);
    assert_int_equal(finish(pid, SIGTERM), 0);
    delta_buf_release(&pad);
    delta_buf_release(&file);
    device_release(&device);
    fleet_remove(&fleet);
}

static void sigterm_finishes_requests_under_way(void **state)
{
    struct fleet fleet;
    struct answer answer;
    pid_t pid, child;
    int status;

    (void)state;
    fleet_make(&fleet);
    pid = start(&fleet, "--faults=any:delay=500", 0);
    fflush(NULL);
    child = fork();
    if (child == 0) {
        const struct call call = {.path = "/healthz"};
        fleet_call(&fleet, NULL, &call, &answer);
        _exit(answer.status == 200 ? 0 : 1);
    }
    pause_ms(250); /* its request is waiting now */
    assert_int_equal(finish(pid, SIGTERM), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    fleet_remove(&fleet);
}

static void the_program_explains_itself(void **state)
{
    struct harness_result *r = malloc(sizeof *r);
    struct fleet fleet;
    static const char *const verbs[] = {"init",          "publish", "token",   "run",
                                        "merge",         "status",  "devices", "versions",
                                        "contributions", "revoke",  "remove"};

    (void)state;
    fleet_make(&fleet);
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        harness_run(r, "frostline-server", verbs[i], "--help", NULL);
        assert_int_equal(r->status, 0);
        assert_non_null(strstr(r->out, "--dir"));
    }
    harness_run(r, "frostline-server", "init", "--dir", fleet.dir, "--name", "x", NULL);
    assert_int_equal(r->status, 3);
    assert_non_null(strstr(r->err, "holds a coordinator already"));
    harness_run(r, "frostline-server", "init", "--dir", harness_path(&fleet.scratch, "n"), "--name",
                "no good", NULL);
    assert_int_equal(r->status, 3);
    harness_run(r, "frostline-server", "publish", "--dir", fleet.dir,
                harness_path(&fleet.scratch, "absent.flm"), NULL);
    assert_non_null(strstr(r->err, "absent.flm"));
    assert_int_equal(r->status, 3);
    harness_run(r, "frostline-server", "publish", "--dir", fleet.dir,
                harness_path(&fleet.scratch, "base.flm"), NULL);
    assert_non_null(strstr(r->err, "already"));
    harness_run(r, "frostline-server", "run", "--dir", fleet.dir, "--listen", "nonsense", NULL);
    assert_int_equal(r->status, 2);
    harness_run(r, "frostline-server", "status", "--dir", fleet.scratch.path, NULL);
    assert_int_equal(r->status, 3);
    assert_non_null(strstr(r->err, "frostline server init"));
    harness_run(r, "frostline-server", "status", "--dir", fleet.dir, "--json", NULL);
    assert_int_equal(r->status, 0);
    assert_non_null(strstr(r->out, "\"schema\": 1"));
    harness_run(r, "frostline-server", "versions", "--dir", fleet.dir, "--json", NULL);
    assert_non_null(strstr(r->out, "\"versions\": ["));
    harness_run(r, "frostline-server", "versions", "--dir", fleet.dir, NULL);
    assert_non_null(strstr(r->out, "published"));
    harness_run(r, "frostline-server", "token", "--dir", fleet.dir, NULL);
    assert_int_equal(strlen(r->out), 33);
    harness_run(r, "frostline-server", "revoke", "--dir", fleet.dir, "nobody", NULL);
    assert_int_equal(r->status, 3);
    harness_run(r, "frostline-server", "merge", "--dir", fleet.dir, NULL);
    assert_int_equal(r->status, 1); /* nothing to merge */
    fleet_remove(&fleet);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_between_upload_and_merge),
        cmocka_unit_test(killed_at_any_moment),
        cmocka_unit_test(full_disk_is_told_and_survived),
        cmocka_unit_test(sigterm_finishes_requests_under_way),
        cmocka_unit_test(the_program_explains_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
