/* TLS by mbedTLS, behind this one file: memory in, memory out, no sockets. The coordinator's side
 * only. A client certificate is optional during the handshake: what it is worth is told by
 * server_tls_peer(), so that a wrong one gets a readable answer instead of a bare alert.
 *
 * Threads: a configuration is shared by all; a connection belongs to one thread at a time (the
 * loop hands it to a worker for the handshake, because that costs milliseconds).
 */
#ifndef SERVER_TLS_H
#define SERVER_TLS_H

#include "delta/hash.h"
#include "delta/key.h"

#define SERVER_TLS_IN_MAX 32768u    /* received, not yet decrypted */
#define SERVER_TLS_OUT_MAX 1048576u /* encrypted, not yet sent */

struct server_tls_config;

/* PEM files of the coordinator's certificate, its key, and the CA for devices.
 *   fails    NOT_FOUND, FORMAT, NO_MEMORY, INTERNAL */
DELTA_MUST_USE enum delta_status server_tls_config_new(struct server_tls_config **out,
                                                       const char *certificate, const char *key,
                                                       const char *ca, struct delta_error *err);
void server_tls_config_free(struct server_tls_config *config);

struct server_tls;

enum server_tls_step {
    SERVER_TLS_DONE,   /* progress: handshake complete, or bytes read */
    SERVER_TLS_WANT,   /* needs more received bytes */
    SERVER_TLS_CLOSED, /* the peer said goodbye */
    SERVER_TLS_FAILED  /* give up; what lies in `out` (an alert) is worth sending */
};

DELTA_MUST_USE enum delta_status
server_tls_new(struct server_tls **out, struct server_tls_config *config, struct delta_error *err);
void server_tls_free(struct server_tls *tls);

/* Where received bytes go: *room bytes may be written there, then tell how many were. */
uint8_t *server_tls_room(struct server_tls *tls, size_t *room);
void server_tls_received(struct server_tls *tls, size_t len);
/* What is to be sent; the caller clears it. */
struct delta_buf *server_tls_out(struct server_tls *tls);

enum server_tls_step server_tls_handshake(struct server_tls *tls, struct delta_error *err);
enum server_tls_step server_tls_read(struct server_tls *tls, uint8_t *data, size_t room,
                                     size_t *len, struct delta_error *err);
/* Encrypts all of it into `out`.  fails: IO, LIMIT (SERVER_TLS_OUT_MAX) */
DELTA_MUST_USE enum delta_status server_tls_write(struct server_tls *tls, struct delta_bytes bytes,
                                                  struct delta_error *err);
void server_tls_goodbye(struct server_tls *tls);

/* The client certificate as the handshake saw it. */
struct server_peer {
    bool shown;       /* it sent one and proved to hold its key */
    bool trusted;     /* issued by our CA, within its validity, for clients */
    char problem[96]; /* why not trusted */
    char name[64];    /* common name; "" when absent, too long or not a device name */
    char organisation[64];
    int64_t expires_ms;
    uint8_t key_der[DELTA_PUBLIC_KEY_MAX];
    size_t key_len;
    struct delta_digest key_id; /* SHA-256 of the DER SubjectPublicKeyInfo */
};
void server_tls_peer(struct server_tls *tls, struct server_peer *peer);

#endif
