/* Who this device is and whom it trusts: device key, certificate, the fleet's CA, the release keys,
 * names. All of it lies in the device directory, the key with mode 0600, and is written at
 * enrolment only. No network here. */
#ifndef AGENT_IDENTITY_H
#define AGENT_IDENTITY_H

#include "agent/agent.h"
#include "coord.h"
#include "delta/key.h"

#define AGENT_PATH_MAX 1024
#define AGENT_URL_MAX 256

/* Files of the device directory that belong to the identity. */
#define AGENT_FILE_KEY "device.key"
#define AGENT_FILE_CERTIFICATE "device.crt"
#define AGENT_FILE_CA "ca.crt"
#define AGENT_FILE_RELEASE_KEYS "release-keys" /* directory of DER files, one per key */
#define AGENT_FILE_IDENTITY "device.json"

struct agent_identity {
    char dir[AGENT_PATH_MAX];
    char device[DELTA_CHANNEL_NAME_MAX + 1];
    char channel[DELTA_CHANNEL_NAME_MAX + 1];
    char server[AGENT_URL_MAX];
    struct delta_key key;
    struct delta_public_key public_key;
    struct delta_keyring release;   /* who may publish */
    struct delta_keyring installed; /* the same and this device, which signs what it installed */
};

/* Reads an enrolled device's directory; end with agent_identity_release().
 *   fails    CONFIG (not enrolled, or a file is broken: says which, and to enrol again) */
DELTA_MUST_USE enum delta_status agent_identity_load(struct agent_identity *out, const char *dir,
                                                     struct delta_error *err);
void agent_identity_release(struct agent_identity *identity);

/* The device's key of this directory, made at the first call (the directory, too, mode 0700). */
DELTA_MUST_USE enum delta_status agent_identity_key(struct delta_key *key, const char *dir,
                                                    struct delta_error *err);

/* A certificate request: DER, common name = device, signed by `key`. csr: initialised here. */
DELTA_MUST_USE enum delta_status agent_identity_csr(struct delta_buf *csr,
                                                    const struct delta_key *key, const char *device,
                                                    struct delta_error *err);

/* Checks what the coordinator answered against the operator's CA and our key, then writes it all,
 * device.json last: a directory with it is enrolled.
 *   fails    UNTRUSTED (certificate not of the operator's CA, or for another key or name) */
DELTA_MUST_USE enum delta_status agent_identity_save(const struct agent_enrol_options *options,
                                                     const struct delta_key *key,
                                                     const struct agent_enrolment *answer,
                                                     struct delta_error *err);

#endif
