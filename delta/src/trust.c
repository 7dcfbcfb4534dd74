/* The only two ways to a model that may be installed. Signature first: nothing of a file is
 * unpacked for a stranger. */
#include "delta/delta.h"

void delta_trusted_model_release(struct delta_trusted_model *trusted)
{
    if (!trusted)
        return;
    delta_model_release(&trusted->model);
    trusted->version = (struct delta_digest){{0}};
}

enum delta_status delta_trust_model(struct delta_trusted_model *out, struct delta_bytes file,
                                    const struct delta_keyring *ring, struct delta_error *err)
{
    struct delta_trusted_model trusted = {.model = {.tensor_count = 0}};
    enum delta_status st = delta_container_verify(file, ring, NULL, err);

    if (!st)
        st = delta_model_decode(&trusted.model, file, &trusted.version, err);
    if (!st)
        st = delta_model_check_finite(&trusted.model, err);
    if (st) {
        delta_trusted_model_release(&trusted);
        return st;
    }
    *out = trusted;
    return DELTA_OK;
}

enum delta_status delta_trust_delta(struct delta_trusted_model *out,
                                    const struct delta_trusted_model *base, struct delta_bytes file,
                                    const struct delta_keyring *ring, struct delta_error *err)
{
    struct delta_trusted_model trusted = {.model = {.tensor_count = 0}};
    struct delta_reader reader;
    enum delta_status st = delta_container_verify(file, ring, NULL, err);

    if (!st)
        st = delta_reader_init(&reader, file, err);
    if (st)
        return st;
    st = delta_apply(&base->model, &reader, &trusted.model, err);
    if (!st) {
        trusted.version = reader.target;
        *out = trusted;
    }
    delta_reader_release(&reader);
    return st;
}
