/* The fleet's CA: makes itself, the coordinator's certificate, device and operator certificates.
 * ECDSA P-256 and SHA-256 throughout; serial numbers are 120 random bits.
 */
#ifndef SERVER_CA_H
#define SERVER_CA_H

#include "delta/key.h"

#define SERVER_CERTIFICATE_MAX 2048 /* DER */
#define SERVER_CSR_MAX 2048         /* DER */

struct server_certificate {
    uint8_t der[SERVER_CERTIFICATE_MAX];
    size_t len;
};

struct server_ca; /* key and certificate; const use from any thread */

/* A self-signed CA certificate for `key`, valid for ten years from `now_ms`. */
DELTA_MUST_USE enum delta_status server_ca_make(const struct delta_key *key, const char *name,
                                                int64_t now_ms, struct server_certificate *out,
                                                struct delta_error *err);
DELTA_MUST_USE enum delta_status server_ca_load(struct server_ca **out, const char *certificate,
                                                const char *key, struct delta_error *err);
void server_ca_free(struct server_ca *ca);
/* DER of the CA certificate; borrowed. */
struct delta_bytes server_ca_certificate(const struct server_ca *ca);

/* A server certificate for these host names and numeric addresses (subjectAltName).
 *   fails    FORMAT (a name is neither), LIMIT (more than 32) */
DELTA_MUST_USE enum delta_status
server_ca_issue_server(struct server_ca *ca, const struct delta_key *key, const char *const *names,
                       size_t count, int64_t now_ms, struct server_certificate *out,
                       struct delta_error *err);
/* A client certificate for this public key: CN = name, O = organisation. `name` has passed
 * delta_name_check(). valid_s: 0 = 397 days; negative: expired already (for tests). */
DELTA_MUST_USE enum delta_status
server_ca_issue_client(struct server_ca *ca, const struct delta_public_key *key, const char *name,
                       const char *organisation, int64_t now_ms, int64_t valid_s,
                       struct server_certificate *out, struct delta_error *err);

/* A certificate request: who asks, and that he holds the key (the request is signed by it).
 *   fails    FORMAT, UNSUPPORTED (not ECDSA P-256), SIGNATURE, LIMIT (name) */
struct server_csr {
    char name[64]; /* common name, passes delta_name_check() */
    struct delta_public_key key;
};
DELTA_MUST_USE enum delta_status server_csr_read(struct server_csr *out, struct delta_bytes der,
                                                 struct delta_error *err);

/* PEM, atomically. */
DELTA_MUST_USE enum delta_status server_certificate_save(const struct server_certificate *crt,
                                                         const char *path, struct delta_error *err);
/* DER of a subjectAltName extension value; exposed for its test. `room` bytes at `out`; *len. */
DELTA_MUST_USE enum delta_status server_san_write(const char *const *names, size_t count,
                                                  uint8_t *out, size_t room, size_t *len,
                                                  struct delta_error *err);

#endif
