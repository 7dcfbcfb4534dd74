/* Enrolment: key, certificate request, the coordinator's answer, exemplars. Leaves a directory
 * enrolled or as it was but for the key, which the next attempt uses again. */
#include <string.h>
#include <unistd.h>

#include "delta/file.h"
#include "identity.h"
#include "state.h"

static enum delta_status check_options(const struct agent_enrol_options *options,
                                       struct delta_error *err)
{
    enum delta_status st = agent_url_check(options->server, err);

    if (!st)
        st = delta_name_check("device", options->device, err);
    if (st)
        return st;
    if (strlen(options->dir) >= AGENT_PATH_MAX / 2)
        return delta_fail(err, DELTA_LIMIT, "device directory path is too long");
    if (!delta_file_exists(options->ca_path))
        return delta_fail(err, DELTA_NOT_FOUND, "cannot open CA file '%s': no such file",
                          options->ca_path);
    if (options->exemplars_path && !delta_file_exists(options->exemplars_path))
        return delta_fail(err, DELTA_NOT_FOUND, "cannot open exemplars '%s': no such file",
                          options->exemplars_path);
    return DELTA_OK;
}

static enum delta_status ask(const struct agent_enrol_options *options, const struct delta_key *key,
                             const struct agent_env *env, struct agent_traffic_count *counts,
                             struct agent_enrolment *answer, struct delta_error *err)
{
    const struct agent_curl_options http = {
        .url = options->server, .ca_path = options->ca_path, .counts = counts, .env = env};
    struct agent_curl *curl;
    struct agent_coord coord;
    struct delta_buf csr;
    enum delta_status st = agent_identity_csr(&csr, key, options->device, err);

    if (st)
        return st;
    st = agent_curl_new(&curl, &http, err);
    if (!st) {
        agent_coord_init(&coord, agent_curl_transport(curl), env);
        st = agent_coord_enrol(&coord, delta_buf_bytes(&csr), options->device, options->token,
                               answer, err);
        agent_curl_free(curl);
    }
    delta_buf_release(&csr);
    return st;
}

enum delta_status agent_enrol(const struct agent_enrol_options *options,
                              const volatile sig_atomic_t *stop, struct delta_error *err)
{
    const struct agent_env env = agent_env_system(stop);
    struct agent_traffic_count counts[AGENT_TRAFFIC_COUNT];
    struct agent_enrolment answer;
    struct delta_key key = {NULL};
    char path[AGENT_PATH_MAX];
    int lock = -1;
    enum delta_status st = check_options(options, err);

    if (st)
        return st;
    st = agent_identity_key(&key, options->dir, err);
    if (!st)
        st = delta_path_join(path, sizeof path, options->dir, "lock", err);
    if (!st)
        st = delta_file_lock(path, &lock, err);
    if (st)
        goto done;
    agent_traffic_load(counts, options->dir);
    st = ask(options, &key, &env, counts, &answer, err);
    if (!st && options->exemplars_path) {
        st = delta_path_join(path, sizeof path, options->dir, "exemplars.flx", err);
        if (!st)
            st = delta_file_copy(options->exemplars_path, path, 0600, err);
    }
    if (!st)
        st = delta_path_join(path, sizeof path, options->dir, "inbox", err);
    if (!st)
        st = delta_dir_make(path, 0700, err);
    if (!st)
        st = agent_identity_save(options, &key, &answer, err);
    if (!st)
        st = agent_traffic_save(counts, options->dir, err);
done:
    if (key.context)
        delta_key_release(&key);
    if (lock >= 0)
        close(lock);
    return st;
}
