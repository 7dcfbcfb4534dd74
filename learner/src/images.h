/* PNG and JPEG decoding, told apart by content, and resizing. What a file declares is bounded
 * before memory is reserved; files from an inbox are hostile.
 * Refuses: other formats, CMYK JPEGs, truncated or damaged data (never a half-grey image). */
#ifndef LEARNER_IMAGES_H
#define LEARNER_IMAGES_H

#include "delta/buf.h"

#define LEARNER_IMAGE_MAX_SIDE 8192
#define LEARNER_IMAGE_MAX_DECODED ((size_t)64 << 20)
#define LEARNER_IMAGE_MAX_FILE ((size_t)32 << 20)

struct learner_image {
    uint32_t width, height;
    uint8_t *pixels; /* owned, interleaved RGB */
};

void learner_image_release(struct learner_image *image);

/* Grey and palette become RGB, transparency is laid on white.
 *   out      written on success only
 *   fails    FORMAT, TRUNCATED, LIMIT, UNSUPPORTED, NO_MEMORY; the text does not name the file */
DELTA_MUST_USE enum delta_status
learner_image_decode(struct learner_image *out, struct delta_bytes file, struct delta_error *err);

/* Planar RGB of the wanted size: the largest centred part of the wanted aspect ratio, by a
 * triangle filter as wide as a source step (area-like when shrinking, bilinear when growing).
 * Same size: copied unchanged.
 *   out      [3, height, width]
 *   fails    NO_MEMORY */
DELTA_MUST_USE enum delta_status learner_image_fit(uint8_t *out, uint32_t height, uint32_t width,
                                                   const struct learner_image *image,
                                                   struct delta_error *err);

#endif
