/* The coordinator over real mutual TLS: who gets in, polling, downloads, reports, lists. */
#include "server_fleet.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ca.h"
#include "delta/file.h"
#include "delta/msg.h"

static void get(struct fleet *fleet, const struct device *device, const char *path,
                const char *header, struct answer *answer)
{
    const struct call call = {.path = path, .header = header};

    fleet_call(fleet, device, &call, answer);
}

static void expect(struct fleet *fleet, const struct device *device, const char *path, long status,
                   const char *name)
{
    struct answer answer;

    get(fleet, device, path, NULL, &answer);
    if (name)
        assert_refused(&answer, status, name);
    else
        assert_int_equal(answer.status, status);
    answer_release(&answer);
}

static void enrolment_takes_a_token_once(void **state)
{
    struct device one, two, thief;
    struct answer answer;
    struct fleet fleet;

    (void)state;
    fleet_make(&fleet);
    fleet_start(&fleet, NULL);
    fleet_token(&fleet, "good", 1);
    device_make(&one, &fleet, "cam-1");
    device_make(&two, &fleet, "cam-2");
    expect(&fleet, NULL, "/healthz", 200, NULL);
    expect(&fleet, NULL, "/v1/channel/main", 401, "UNTRUSTED");
    fleet_enrol(&fleet, &one, "bad", &answer);
    assert_refused(&answer, 403, "UNTRUSTED");
    answer_release(&answer);
    assert_int_equal(fleet_enrol(&fleet, &one, "good", &answer), 200);
    answer_release(&answer);
    expect(&fleet, &one, "/v1/channel/main", 200, NULL);
    fleet_enrol(&fleet, &two, "good", &answer); /* used up */
    assert_refused(&answer, 403, "UNTRUSTED");
    answer_release(&answer);
    assert_int_equal(fleet_enrol(&fleet, &one, "good", &answer), 200); /* same key: renewed */
    answer_release(&answer);
    assert_int_equal(fleet_enrol(&fleet, &one, "anything", &answer), 200); /* by its certificate */
    answer_release(&answer);
    fleet_token(&fleet, "more", 9);
    device_make(&thief, &fleet, "cam-1");
    fleet_enrol(&fleet, &thief, "more", &answer); /* the name is taken */
    assert_refused(&answer, 403, "UNTRUSTED");
    answer_release(&answer);
    device_release(&one);
    device_release(&two);
    device_release(&thief);
    fleet_remove(&fleet);
}

static void malformed_enrolments_are_refused(void **state)
{
    static const char big[9000];
    const struct call calls[] = {
        {.method = "POST", .path = "/v1/enrol", .body = "", .body_len = 0},
        {.method = "POST", .path = "/v1/enrol", .body = "\xdf\xff\xff\xff\xff", .body_len = 5},
        {.method = "POST", .path = "/v1/enrol", .body = "{\"csr\":1}", .body_len = 9},
        {.method = "POST", .path = "/v1/enrol", .body = "\x80", .body_len = 1}};
    const struct call too_big = {
        .method = "POST", .path = "/v1/enrol", .body = big, .body_len = sizeof big};
    struct answer answer;
    struct fleet fleet;

    (void)state;
    fleet_make(&fleet);
    fleet_start(&fleet, NULL);
    for (size_t i = 0; i < 4; i++) {
        fleet_call(&fleet, NULL, &calls[i], &answer);
        assert_int_equal(answer.status, 400);
        answer_release(&answer);
    }
    fleet_call(&fleet, NULL, &too_big, &answer);
    assert_refused(&answer, 413, "LIMIT");
    answer_release(&answer);
    expect(&fleet, NULL, "/nowhere", 404, "NOT_FOUND");
    expect(&fleet, NULL, "/v1/enrol", 405, "UNSUPPORTED");
    fleet_remove(&fleet);
}

/* Gives the device another certificate: of a foreign CA, or an expired one of this. */
static void give_certificate(struct device *device, struct fleet *fleet, bool foreign,
                             int64_t valid_s, const char *organisation)
{
    const int64_t now = delta_clock_wall_ms(&fleet->keeper.clock);
    const char *key_path = fleet->keeper.places.ca_key, *crt_path = fleet->keeper.places.ca_pem;
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_certificate crt;
    struct delta_public_key key;
    struct delta_key foreign_key = {NULL};
    struct server_ca *ca;

    if (foreign) {
        assert_ok(delta_key_generate(&foreign_key, &err));
        key_path = harness_path(&fleet->scratch, "foreign.key");
        crt_path = harness_path(&fleet->scratch, "foreign.pem");
        assert_ok(delta_key_save(&foreign_key, key_path, &err));
        assert_ok(server_ca_make(&foreign_key, "foreign", now, &crt, &err));
        assert_ok(server_certificate_save(&crt, crt_path, &err));
        delta_key_release(&foreign_key);
    }
    assert_ok(server_ca_load(&ca, crt_path, key_path, &err));
    assert_ok(delta_key_public(&device->key, &key, &err));
    assert_ok(
        server_ca_issue_client(ca, &key, device->name, organisation, now, valid_s, &crt, &err));
    snprintf(device->crt_path, sizeof device->crt_path, "%s/given.pem", fleet->scratch.path);
    assert_ok(server_certificate_save(&crt, device->crt_path, &err));
    server_ca_free(ca);
}

static void wrong_certificates_get_a_readable_answer(void **state)
{
    struct device device, stranger;
    struct fleet fleet;
    struct answer answer;
    struct delta_error err = DELTA_ERROR_INIT;

    (void)state;
    fleet_make(&fleet);
    fleet_start(&fleet, NULL);
    device_make(&device, &fleet, "cam-1");
    device_enrol_quietly(&device, &fleet);
    expect(&fleet, &device, "/v1/channel/main", 200, NULL);
    give_certificate(&device, &fleet, true, 0, "device");
    get(&fleet, &device, "/v1/channel/main", "Accept: application/json", &answer);
    assert_int_equal(answer.status, 403);
    assert_non_null(strstr((char *)answer.body, "enrol this device again"));
    answer_release(&answer);
    give_certificate(&device, &fleet, false, -60, "device");
    get(&fleet, &device, "/v1/channel/main", "Accept: application/json", &answer);
    assert_int_equal(answer.status, 403);
    assert_non_null(strstr((char *)answer.body, "has expired"));
    answer_release(&answer);
    expect(&fleet, &device, "/healthz", 200, NULL); /* needs none, so a wrong one is no obstacle */
    /* right CA, never enrolled */
    device_make(&stranger, &fleet, "cam-9");
    give_certificate(&stranger, &fleet, false, 0, "device");
    expect(&fleet, &stranger, "/v1/channel/main", 403, "UNTRUSTED");
    /* right CA and name, but not the key that was enrolled */
    snprintf(stranger.name, sizeof stranger.name, "cam-1");
    give_certificate(&stranger, &fleet, false, 0, "device");
    expect(&fleet, &stranger, "/v1/channel/main", 403, "UNTRUSTED");
    /* revoked while the coordinator runs */
    give_certificate(&device, &fleet, false, 0, "device");
    expect(&fleet, &device, "/v1/channel/main", 200, NULL);
    assert_ok(server_store_revoke(fleet.keeper.store, "cam-1", 1, &err));
    expect(&fleet, &device, "/v1/channel/main", 403, "UNTRUSTED");
    device_release(&device);
    device_release(&stranger);
    fleet_remove(&fleet);
}

static void a_foreign_coordinator_is_not_trusted_by_clients(void **state)
{
    struct fleet fleet, other;
    struct answer answer;

    (void)state;
    fleet_make(&fleet);
    fleet_make(&other);
    fleet_start(&fleet, NULL);
    struct call wrong = {.path = "/healthz"};
    wrong.ca = other.keeper.places.ca_pem;
    fleet_call(&fleet, NULL, &wrong, &answer);
    assert_int_equal(answer.status, 0);
    assert_int_not_equal(answer.curl_code, 0);
    answer_release(&answer);
    fleet_remove(&other);
    fleet_remove(&fleet);
}

static void read_etag(const struct answer *answer, char *out, size_t size)
{
    const char *at = strstr(answer->headers, "ETag: ");

    assert_non_null(at);
    snprintf(out, size, "If-None-Match: %.66s", at + 6);
}

static void polling_gives_the_document_once(void **state)
{
    struct device device;
    struct fleet fleet;
    struct answer answer;
    struct delta_channel channel;
    struct delta_keyring ring = {.count = 0};
    struct delta_error err = DELTA_ERROR_INIT;
    struct server_version version;
    struct delta_model model;
    char tag[100];
    const char *path;

    (void)state;
    fleet_make(&fleet);
    fleet_start(&fleet, NULL);
    device_make(&device, &fleet, "cam-1");
    device_enrol_quietly(&device, &fleet);
    get(&fleet, &device, "/v1/channel/main", NULL, &answer);
    assert_int_equal(answer.status, 200);
    assert_ok(delta_keyring_add(&ring, &fleet.keeper.release_public, &err));
    assert_ok(delta_channel_open(&channel, delta_bytes(answer.body, answer.len), &ring, &err));
    assert_true(delta_digest_equal(&channel.version, &fleet.version));
    assert_int_equal(channel.serial, 1);
    assert_true(channel.expires_ms > channel.issued_ms);
    assert_non_null(strstr(answer.headers, "Cache-Control: max-age=60"));
    read_etag(&answer, tag, sizeof tag);
    answer_release(&answer);
    get(&fleet, &device, "/v1/channel/main", tag, &answer);
    assert_int_equal(answer.status, 304);
    assert_int_equal(answer.len, 0);
    answer_release(&answer);
    /* published by another program while the coordinator runs */
    assert_ok(delta_model_copy(&model, &fleet.base, &err));
    model.tensors[3].data[0] += 1;
    path = harness_path(&fleet.scratch, "two.flm");
    assert_ok(delta_model_save(&model, path, &err));
    assert_ok(server_publish(&fleet.keeper, "main", path, NULL, 0, &version, &err));
    get(&fleet, &device, "/v1/channel/main", tag, &answer);
    assert_int_equal(answer.status, 200);
    assert_ok(delta_channel_open(&channel, delta_bytes(answer.body, answer.len), &ring, &err));
    assert_int_equal(channel.serial, 2);
    assert_int_equal(channel.edge_count, 1);
    answer_release(&answer);
    get(&fleet, &device, "/v1/channel/main", "Accept: application/json", &answer);
    assert_non_null(strstr((char *)answer.body, "\"signature\""));
    assert_non_null(strstr(answer.headers, "application/json"));
    answer_release(&answer);
    expect(&fleet, &device, "/v1/channel/other", 404, "NOT_FOUND");
    expect(&fleet, &device, "/v1/channel/..", 400, "FORMAT");
    delta_model_release(&model);
    device_release(&device);
    fleet_remove(&fleet);
}

static void blobs_come_whole_and_in_ranges(void **state)
{
    struct device device;
    struct fleet fleet;
    struct answer answer;
    struct server_version version;
    struct delta_error err = DELTA_ERROR_INIT;
    struct delta_buf file;
    char place[SERVER_PATH_MAX];
    const char *path;

    (void)state;
    fleet_make(&fleet);
    fleet_start(&fleet, NULL);
    device_make(&device, &fleet, "cam-1");
    device_enrol_quietly(&device, &fleet);
    assert_ok(server_store_version(fleet.keeper.store, &fleet.version, &version, &err));
    server_places_blob(&fleet.keeper.places, &version.blob, place);
    assert_ok(delta_file_read(place, 1 << 20, &file, &err));
    path = fleet_path("blob", &version.blob);
    get(&fleet, &device, path, NULL, &answer);
    assert_int_equal(answer.status, 200);
    assert_int_equal(answer.len, file.len);
    assert_memory_equal(answer.body, file.data, file.len);
    assert_non_null(strstr(answer.headers, "immutable"));
    answer_release(&answer);
    get(&fleet, &device, path, "Range: bytes=100-199", &answer);
    assert_int_equal(answer.status, 206);
    assert_int_equal(answer.len, 100);
    assert_memory_equal(answer.body, file.data + 100, 100);
    assert_non_null(strstr(answer.headers, "Content-Range: bytes 100-199/"));
    answer_release(&answer);
    get(&fleet, &device, path, "Range: bytes=10-", &answer);
    assert_int_equal(answer.len, file.len - 10);
    answer_release(&answer);
    get(&fleet, &device, path, "Range: bytes=99999999-", &answer);
    assert_refused(&answer, 416, "LIMIT");
    answer_release(&answer);
    const struct call head = {.method = "HEAD", .path = path};
    fleet_call(&fleet, &device, &head, &answer);
    assert_int_equal(answer.status, 200);
    assert_int_equal(answer.len, 0);
    snprintf(place, sizeof place, "Content-Length: %zu", file.len);
    assert_non_null(strstr(answer.headers, place));
    answer_release(&answer);
    expect(&fleet, &device, fleet_path("blob", &fleet.version), 404, "NOT_FOUND");
    expect(&fleet, &device, "/v1/blob/../../ca.key", 400, "FORMAT");
    expect(&fleet, NULL, path, 401, "UNTRUSTED");
    delta_buf_release(&file);
    device_release(&device);
    fleet_remove(&fleet);
}

static void report_body(struct delta_buf *out, const char *event, double old,
                        const struct delta_digest *version)
{
    struct delta_msg_out msg = {out, DELTA_OK};

    delta_buf_init(out, 1024);
    delta_msg_map(&msg, 5);
    delta_msg_str(&msg, "event");
    delta_msg_str(&msg, event);
    delta_msg_str(&msg, "old");
    delta_msg_real(&msg, old);
    delta_msg_str(&msg, "reason");
    delta_msg_str(&msg, "");
    delta_msg_str(&msg, "tested");
    delta_msg_uint(&msg, 50);
    delta_msg_str(&msg, "version");
    delta_msg_bin(&msg, version->bytes, sizeof version->bytes);
}

static void reports_are_kept_and_people_see_lists(void **state)
{
    static const struct {
        const char *event;
        double old;
        long status;
    } table[] = {{"installed", 0.5, 204}, {"exploded", 0.5, 400}, {"installed", 1.5, 400}};
    struct device device, person;
    struct fleet fleet;
    struct answer answer;

    (void)state;
    fleet_make(&fleet);
    fleet_start(&fleet, NULL);
    device_make(&device, &fleet, "cam-1");
    device_enrol_quietly(&device, &fleet);
    for (size_t i = 0; i < 3; i++) {
        struct delta_buf body;
        report_body(&body, table[i].event, table[i].old, &fleet.version);
        const struct call call = {
            .method = "POST", .path = "/v1/report", .body = body.data, .body_len = body.len};
        fleet_call(&fleet, &device, &call, &answer);
        assert_int_equal(answer.status, table[i].status);
        answer_release(&answer);
        delta_buf_release(&body);
    }
    get(&fleet, &device, "/v1/status", NULL, &answer);
    assert_int_equal(answer.status, 200);
    assert_non_null(strstr((char *)answer.body, "\"reports\": 1"));
    assert_non_null(strstr((char *)answer.body, "\"schema\": 1"));
    answer_release(&answer);
    expect(&fleet, &device, "/v1/devices", 403, NULL);
    memset(&person, 0, sizeof person);
    snprintf(person.key_path, sizeof person.key_path, "%s/operator.key", fleet.dir);
    snprintf(person.crt_path, sizeof person.crt_path, "%s/operator.pem", fleet.dir);
    get(&fleet, &person, "/v1/devices", NULL, &answer);
    assert_int_equal(answer.status, 200);
    assert_non_null(strstr((char *)answer.body, "\"report\": \"installed\""));
    answer_release(&answer);
    get(&fleet, &person, "/v1/versions", NULL, &answer);
    assert_non_null(strstr((char *)answer.body, "\"origin\": \"published\""));
    answer_release(&answer);
    get(&fleet, &person, "/v1/contributions", "Accept: application/msgpack", &answer);
    assert_int_equal(answer.len, 1);
    assert_int_equal(answer.body[0], 0x90);
    answer_release(&answer);
    device_release(&device);
    fleet_remove(&fleet);
}

/* A plain TCP connection to the coordinator. */
static int dial(const struct fleet *fleet)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(fleet->port)};
    const int fd = socket(AF_INET, SOCK_STREAM, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static int64_t until_closed_ms(int fd)
{
    const struct timeval limit = {10, 0};
    const struct delta_clock clock = delta_clock_system();
    const int64_t start = delta_clock_monotonic_ms(&clock);
    char piece[256];

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    while (read(fd, piece, sizeof piece) > 0)
        ;
    close(fd);
    return delta_clock_monotonic_ms(&clock) - start;
}

static void the_silent_and_the_garbled_are_cut_off(void **state)
{
    const struct server_options options = {.handshake_ms = 300, .idle_ms = 300, .stall_ms = 300};
    struct fleet fleet;
    ssize_t put;
    int fd;

    (void)state;
    fleet_make(&fleet);
    fleet_start(&fleet, &options);
    assert_in_range(until_closed_ms(dial(&fleet)), 200, 5000);
    fd = dial(&fleet);
    put = write(fd, "GET / HTTP/1.1\r\n\r\n", 18); /* no TLS at all */
    assert_int_equal(put, 18);
    assert_in_range(until_closed_ms(fd), 0, 5000);
    fd = dial(&fleet);
    put = write(fd, "\x16\x03\x01\x40\x00", 5); /* a record that never comes */
    assert_int_equal(put, 5);
    assert_in_range(until_closed_ms(fd), 200, 5000);
    expect(&fleet, NULL, "/healthz", 200, NULL);
    fleet_remove(&fleet);
}

static void above_the_maximum_there_is_503(void **state)
{
    const struct server_options options = {.max_connections = 2};
    struct fleet fleet;
    struct answer answer;
    int fds[2];

    (void)state;
    fleet_make(&fleet);
    fleet_start(&fleet, &options);
    for (int i = 0; i < 2; i++)
        fds[i] = dial(&fleet);
    get(&fleet, NULL, "/healthz", NULL, &answer);
    assert_refused(&answer, 503, "BUSY");
    assert_non_null(strstr(answer.headers, "Retry-After: "));
    answer_release(&answer);
    close(fds[0]);
    close(fds[1]);
    for (int i = 0; i < 100; i++) { /* the coordinator notices soon */
        const struct timespec pause = {0, 20000000};
        get(&fleet, NULL, "/healthz", NULL, &answer);
        const long status = answer.status;
        answer_release(&answer);
        if (status == 200)
            break;
        assert_true(i < 99);
        nanosleep(&pause, NULL);
    }
    fleet_remove(&fleet);
}

static void *poll_often(void *context)
{
    const struct {
        struct fleet *fleet;
        struct device *device;
    } *at = context;

    for (int i = 0; i < 10; i++) {
        struct answer answer;
        const struct call call = {.path = "/v1/channel/main"};
        fleet_call(at->fleet, at->device, &call, &answer);
        const long status = answer.status;
        answer_release(&answer);
        if (status != 200)
            return context;
    }
    return NULL;
}

static void many_at_once_are_served(void **state)
{
    struct device device;
    struct fleet fleet;
    pthread_t threads[8];
    struct {
        struct fleet *fleet;
        struct device *device;
    } at = {&fleet, &device};

    (void)state;
    fleet_make(&fleet);
    fleet_start(&fleet, NULL);
    device_make(&device, &fleet, "cam-1");
    device_enrol_quietly(&device, &fleet);
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, poll_often, &at);
    for (int i = 0; i < 8; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    device_release(&device);
    fleet_remove(&fleet);
}

static void one_coordinator_per_directory(void **state)
{
    const struct server_options options = {.port = 0};
    struct server_options second = options;
    struct delta_error err = DELTA_ERROR_INIT;
    struct server *server;
    struct fleet fleet;

    (void)state;
    fleet_make(&fleet);
    fleet_start(&fleet, NULL);
    second.dir = fleet.dir;
    assert_status(server_new(&server, &second, &err), DELTA_EXISTS);
    fleet_stop(&fleet);
    second.host = "not an address";
    assert_status(server_new(&server, &second, &err), DELTA_CONFIG);
    second.host = NULL;
    second.faults = "blob:explode";
    assert_status(server_new(&server, &second, &err), DELTA_CONFIG);
    second.faults = NULL;
    second.dir = fleet.scratch.path;
    assert_status(server_new(&server, &second, &err), DELTA_NOT_FOUND);
    fleet_remove(&fleet);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(enrolment_takes_a_token_once),
        cmocka_unit_test(malformed_enrolments_are_refused),
        cmocka_unit_test(wrong_certificates_get_a_readable_answer),
        cmocka_unit_test(a_foreign_coordinator_is_not_trusted_by_clients),
        cmocka_unit_test(polling_gives_the_document_once),
        cmocka_unit_test(blobs_come_whole_and_in_ranges),
        cmocka_unit_test(reports_are_kept_and_people_see_lists),
        cmocka_unit_test(the_silent_and_the_garbled_are_cut_off),
        cmocka_unit_test(above_the_maximum_there_is_503),
        cmocka_unit_test(many_at_once_are_served),
        cmocka_unit_test(one_coordinator_per_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
