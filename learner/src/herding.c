#include "herding.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "delta/buf.h"

static void normalise(double *rows, const float *features, size_t count, size_t d)
{
    for (size_t i = 0; i < count; i++) {
        double square = 0;
        for (size_t j = 0; j < d; j++)
            square += (double)features[i * d + j] * features[i * d + j];
        const double scale = square > 0 ? 1 / sqrt(square) : 0;
        for (size_t j = 0; j < d; j++)
            rows[i * d + j] = features[i * d + j] * scale;
    }
}

/* Squared distance of (sum + row) / n from the mean. */
static double distance(const double *mean, const double *sum, const double *row, size_t n, size_t d)
{
    double total = 0;

    for (size_t j = 0; j < d; j++) {
        const double away = mean[j] - (sum[j] + row[j]) / (double)n;
        total += away * away;
    }
    return total;
}

enum delta_status learner_herd(uint32_t *chosen, size_t wanted, const float *features, size_t count,
                               size_t d, struct delta_error *err)
{
    size_t cells = 0;
    double *rows = delta_size_mul(count, d, &cells) ? delta_calloc(cells + 1, sizeof *rows) : NULL;
    double *mean = delta_calloc(d + 1, sizeof *mean);
    double *sum = delta_calloc(d + 1, sizeof *sum);
    bool *taken = delta_calloc(count + 1, sizeof *taken);
    enum delta_status st = DELTA_OK;

    if (!rows || !mean || !sum || !taken) {
        st = delta_fail(err, DELTA_NO_MEMORY, "out of memory for choosing exemplars");
        goto done;
    }
    normalise(rows, features, count, d);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < d; j++)
            mean[j] += rows[i * d + j] / (double)count;
    for (size_t n = 0; n < wanted && n < count; n++) {
        double best = INFINITY;
        size_t best_at = count;
        for (size_t i = 0; i < count; i++) {
            const double away = taken[i] ? INFINITY : distance(mean, sum, rows + i * d, n + 1, d);
            if (away < best || (best_at == count && !taken[i])) {
                best = away;
                best_at = i;
            }
        }
        taken[best_at] = true;
        chosen[n] = (uint32_t)best_at;
        for (size_t j = 0; j < d; j++)
            sum[j] += rows[best_at * d + j];
    }
done:
    free(rows);
    free(mean);
    free(sum);
    free(taken);
    return st;
}
