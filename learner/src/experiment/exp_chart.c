#include "exp_chart.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define WIDTH 860
#define LINE_HEIGHT 500
#define INK 0x222222
#define FAINT 0x666666
#define GRID 0xe4e4e4
#define GREY 0x888888
#define TEXT_SIZE 13.0
#define TICKS_MAX 24
#define COLOURS 7
#define LEGEND_LINE 20.0
#define BAR 13.0

static const unsigned colours[COLOURS] = {0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7,
                                          0xe69f00, 0x56b4e9, 0x000000};

static unsigned colour_of(const struct exp_chart *chart, size_t series)
{
    size_t index = 0;

    for (size_t i = 0; i < series; i++)
        index += !chart->series[i].grey;
    return chart->series[series].grey ? GREY : colours[index % COLOURS];
}

/* ---- axes ---- */

struct axis {
    double low, high; /* of the data, logarithms for a logarithmic axis */
    double from, to;  /* pixels */
    bool log, whole;
    double ticks[TICKS_MAX];
    size_t tick_count;
    int digits;
};

static double position(const struct axis *axis, double value)
{
    const double v = axis->log ? log10(value > 0 ? value : 1e-12) : value;

    return axis->from + (v - axis->low) / (axis->high - axis->low) * (axis->to - axis->from);
}

static void linear_ticks(struct axis *axis, int wanted)
{
    const double raw = (axis->high - axis->low) / wanted;
    const double power = pow(10, floor(log10(raw)));
    const double part = raw / power;
    double step = (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10) * power;

    if (axis->whole && step < 1)
        step = 1;
    axis->low = step * floor(axis->low / step + 1e-9);
    axis->high = step * ceil(axis->high / step - 1e-9);
    axis->digits = step >= 1 ? 0 : (int)ceil(-log10(step) - 1e-9);
    for (double v = axis->low; v < axis->high + step / 2 && axis->tick_count < TICKS_MAX; v += step)
        axis->ticks[axis->tick_count++] = fabs(v) < step / 1000 ? 0 : v;
}

/* Whole decades, and 2 and 5 between them where there are few. */
static void log_ticks(struct axis *axis)
{
    const double steps[] = {1, 2, 5};

    axis->low = floor(axis->low + 1e-9);
    axis->high = ceil(axis->high - 1e-9);
    if (axis->high <= axis->low)
        axis->high = axis->low + 1;
    const int each = axis->high - axis->low < 3.5 ? 3 : 1;
    for (double d = axis->low; d <= axis->high && axis->tick_count < TICKS_MAX; d++)
        for (int i = 0; i < each && axis->tick_count < TICKS_MAX; i++)
            if (i == 0 || d < axis->high)
                axis->ticks[axis->tick_count++] = steps[i] * pow(10, d);
}

static void see(struct axis *axis, double value, bool *any)
{
    const double v = axis->log ? log10(value > 0 ? value : 1e-12) : value;

    if (axis->log && value <= 0)
        return;
    axis->low = *any && axis->low < v ? axis->low : v;
    axis->high = *any && axis->high > v ? axis->high : v;
    *any = true;
}

static void settle(struct axis *axis, int wanted, bool from_zero)
{
    if (!axis->log && from_zero && axis->low > 0)
        axis->low = 0;
    if (axis->high - axis->low < 1e-9) {
        axis->low -= axis->log ? 0 : 1;
        axis->high += 1;
    }
    if (axis->log)
        log_ticks(axis);
    else
        linear_ticks(axis, wanted);
}

static void tick_text(char *out, size_t size, const struct axis *axis, double value)
{
    if (!axis->log)
        snprintf(out, size, "%.*f", axis->digits, value);
    else if (value >= 1e6 || value < 1e-3)
        snprintf(out, size, "%.0e", value);
    else
        snprintf(out, size, "%.10g", value);
}

/* ---- pieces ---- */

static void marker(struct draw *draw, struct draw_point at, size_t kind, double r, unsigned colour)
{
    const struct draw_point shapes[4][4] = {
        {{at.x - r, at.y - r}, {at.x + r, at.y - r}, {at.x + r, at.y + r}, {at.x - r, at.y + r}},
        {{at.x, at.y - 1.25 * r}, {at.x + 1.2 * r, at.y + r}, {at.x - 1.2 * r, at.y + r}},
        {{at.x, at.y - 1.4 * r},
         {at.x + 1.4 * r, at.y},
         {at.x, at.y + 1.4 * r},
         {at.x - 1.4 * r, at.y}},
        {{at.x - 1.2 * r, at.y - r}, {at.x + 1.2 * r, at.y - r}, {at.x, at.y + 1.25 * r}}};
    static const size_t corners[4] = {4, 3, 4, 3};

    if (kind % 5 == 0)
        draw_disc(draw, at, 1.1 * r, colour);
    else
        draw_convex(draw, shapes[kind % 5 - 1], corners[kind % 5 - 1], colour);
}

static void head(struct draw *draw, const struct exp_chart *chart, double left)
{
    draw_text(draw, (struct draw_point){left, 30}, chart->title, 17, DRAW_START, 0, true, INK);
    if (chart->subtitle)
        draw_text(draw, (struct draw_point){left, 50}, chart->subtitle, 12, DRAW_START, 0, false,
                  FAINT);
    if (chart->note)
        draw_text(draw, (struct draw_point){left, (double)draw->height - 10}, chart->note, 10.5,
                  DRAW_START, 0, false, FAINT);
}

static double legend_width(const struct exp_chart *chart)
{
    double most = 0;

    for (size_t i = 0; i < chart->series_count; i++)
        most = fmax(most, draw_text_width(chart->series[i].name, 12));
    return most + 44;
}

static void legend(struct draw *draw, const struct exp_chart *chart, double x, double y, bool bars)
{
    for (size_t i = 0; i < chart->series_count; i++, y += LEGEND_LINE) {
        const struct exp_chart_series *s = &chart->series[i];
        const unsigned colour = colour_of(chart, i);
        if (bars)
            draw_rect(draw, x + 4, y - 6, 18, 12, colour);
        else if (s->joined)
            draw_line(draw, (struct draw_point){x, y}, (struct draw_point){x + 26, y}, colour, 2,
                      s->grey ? 5 : 0);
        if (!bars)
            marker(draw, (struct draw_point){x + 13, y}, i, 4, colour);
        draw_text(draw, (struct draw_point){x + 34, y + 4.5}, s->name, 12, DRAW_START, 0, false,
                  INK);
    }
}

static void x_axis(struct draw *draw, const struct axis *x, double top, double bottom,
                   const char *title)
{
    char text[40];

    for (size_t i = 0; i < x->tick_count; i++) {
        const double at = position(x, x->ticks[i]);
        draw_line(draw, (struct draw_point){at, top}, (struct draw_point){at, bottom}, GRID, 1, 0);
        tick_text(text, sizeof text, x, x->ticks[i]);
        draw_text(draw, (struct draw_point){at, bottom + 19}, text, 12, DRAW_MIDDLE, 0, false, INK);
    }
    draw_text(draw, (struct draw_point){(x->from + x->to) / 2, bottom + 42}, title, TEXT_SIZE,
              DRAW_MIDDLE, 0, false, INK);
}

static void y_axis(struct draw *draw, const struct axis *y, double left, double right,
                   const char *title)
{
    char text[40];

    for (size_t i = 0; i < y->tick_count; i++) {
        const double at = position(y, y->ticks[i]);
        draw_line(draw, (struct draw_point){left, at}, (struct draw_point){right, at}, GRID, 1, 0);
        tick_text(text, sizeof text, y, y->ticks[i]);
        draw_text(draw, (struct draw_point){left - 8, at + 4.5}, text, 12, DRAW_END, 0, false, INK);
    }
    draw_text(draw, (struct draw_point){left - 50, (y->from + y->to) / 2}, title, TEXT_SIZE,
              DRAW_MIDDLE, -90, false, INK);
}

static void frame(struct draw *draw, double left, double top, double right, double bottom)
{
    draw_line(draw, (struct draw_point){left, top}, (struct draw_point){left, bottom}, INK, 1.2, 0);
    draw_line(draw, (struct draw_point){left, bottom}, (struct draw_point){right, bottom}, INK, 1.2,
              0);
}

/* ---- lines ---- */

static void error_bar(struct draw *draw, const struct axis *y, double x, double value,
                      double deviation, unsigned colour)
{
    const double low = value - deviation, top = position(y, value + deviation);
    const double bottom = position(y, y->log && low <= 0 ? value : low);

    if (!(deviation > 0))
        return;
    draw_line(draw, (struct draw_point){x, top}, (struct draw_point){x, bottom}, colour, 1.3, 0);
    draw_line(draw, (struct draw_point){x - 4, top}, (struct draw_point){x + 4, top}, colour, 1.3,
              0);
    draw_line(draw, (struct draw_point){x - 4, bottom}, (struct draw_point){x + 4, bottom}, colour,
              1.3, 0);
}

static void draw_series(struct draw *draw, const struct exp_chart *chart, size_t index,
                        const struct axis *x, const struct axis *y)
{
    const struct exp_chart_series *s = &chart->series[index];
    const unsigned colour = colour_of(chart, index);
    struct draw_point last = {0, 0};

    for (size_t i = 0; i < s->count; i++) {
        const struct exp_chart_point *p = &s->points[i];
        const struct draw_point at = {position(x, p->x), position(y, p->y)};
        if (i && s->joined)
            draw_line(draw, last, at, colour, 2, s->grey ? 5 : 0);
        error_bar(draw, y, at.x, p->y, p->deviation, colour);
        last = at;
    }
    for (size_t i = 0; i < s->count && s->count <= 30; i++)
        marker(draw, (struct draw_point){position(x, s->points[i].x), position(y, s->points[i].y)},
               index, s->joined ? 4 : 5.5, colour);
}

static void draw_lines(struct draw *draw, const struct exp_chart *chart)
{
    const double left = 74, top = 70, bottom = (double)draw->height - 70;
    const double right = (double)draw->width - legend_width(chart) - 26;
    struct axis x = {.from = left, .to = right, .log = chart->log_x, .whole = chart->whole_x};
    struct axis y = {.from = bottom, .to = top, .log = chart->log_y};
    bool any_x = false, any_y = false;

    for (size_t s = 0; s < chart->series_count; s++)
        for (size_t i = 0; i < chart->series[s].count; i++) {
            const struct exp_chart_point *p = &chart->series[s].points[i];
            see(&x, p->x, &any_x);
            see(&y, p->y + p->deviation, &any_y);
            see(&y, p->y - p->deviation, &any_y);
        }
    if (chart->percent) {
        y.low = y.low < 0 ? 0 : y.low;
        y.high = y.high > 100 ? 100 : y.high;
    }
    settle(&x, 8, false);
    settle(&y, 6, false);
    x_axis(draw, &x, top, bottom, chart->x_title);
    y_axis(draw, &y, left, right, chart->y_title);
    frame(draw, left, top, right, bottom);
    for (size_t s = 0; s < chart->series_count; s++)
        draw_series(draw, chart, s, &x, &y);
    legend(draw, chart, right + 18, top + 8, false);
}

/* ---- bars ---- */

static double group_height(const struct exp_chart *chart)
{
    return BAR * (double)chart->series_count + 12;
}

static void draw_bar(struct draw *draw, const struct axis *x, double left, double y,
                     const struct exp_chart_point *p, unsigned colour)
{
    const double end = position(x, p->y);
    char text[40];

    if (!isfinite(p->y) || (x->log && p->y <= 0))
        return;
    draw_rect(draw, left, y, end > left + 1 ? end - left : 1, BAR - 2, colour);
    double mark = end;
    if (p->deviation > 0) {
        const double low = position(x, x->log && p->y <= p->deviation ? p->y : p->y - p->deviation);
        mark = position(x, p->y + p->deviation);
        draw_line(draw, (struct draw_point){low, y + BAR / 2 - 1},
                  (struct draw_point){mark, y + BAR / 2 - 1}, INK, 1.2, 0);
    }
    snprintf(text, sizeof text, p->y >= 1000 ? "%.0f" : "%.1f", p->y);
    draw_text(draw, (struct draw_point){mark + 5, y + BAR - 3.5}, text, 10.5, DRAW_START, 0, false,
              FAINT);
}

static void draw_bars(struct draw *draw, const struct exp_chart *chart)
{
    double names = 0;
    const double top = 66, bottom = (double)draw->height - 70;
    bool any = false;

    for (size_t g = 0; g < chart->group_count; g++)
        names = fmax(names, draw_text_width(chart->groups[g], 12));
    const double left = names + 34, right = (double)draw->width - legend_width(chart) - 60;
    struct axis x = {.from = left, .to = right, .log = chart->log_x};
    for (size_t s = 0; s < chart->series_count; s++)
        for (size_t i = 0; i < chart->series[s].count; i++)
            if (isfinite(chart->series[s].points[i].y))
                see(&x, chart->series[s].points[i].y + chart->series[s].points[i].deviation, &any);
    if (chart->percent && x.high > 100)
        x.high = 100;
    settle(&x, 6, true);
    x_axis(draw, &x, top, bottom, chart->x_title);
    for (size_t g = 0; g < chart->group_count; g++) {
        const double y = top + 6 + (double)g * group_height(chart);
        draw_text(draw,
                  (struct draw_point){left - 10, y + BAR * (double)chart->series_count / 2 + 3.5},
                  chart->groups[g], 12, DRAW_END, 0, false, INK);
        for (size_t s = 0; s < chart->series_count; s++)
            if (g < chart->series[s].count)
                draw_bar(draw, &x, left, y + BAR * (double)s, &chart->series[s].points[g],
                         colour_of(chart, s));
    }
    frame(draw, left, top, right, bottom);
    legend(draw, chart, right + 46, top + 8, true);
}

enum delta_status exp_chart_save(const struct exp_chart *chart, const char *stem,
                                 struct delta_error *err)
{
    struct draw draw;
    size_t height = LINE_HEIGHT;
    enum delta_status st;

    if (chart->groups)
        height = (size_t)(146 + group_height(chart) * (double)chart->group_count);
    else if (height < 170 + LEGEND_LINE * chart->series_count)
        height = (size_t)(170 + LEGEND_LINE * (double)chart->series_count);
    st = draw_init(&draw, WIDTH, height, chart->title, err);
    if (!st) {
        head(&draw, chart, 24);
        if (chart->groups)
            draw_bars(&draw, chart);
        else
            draw_lines(&draw, chart);
        st = draw_save(&draw, stem, err);
    }
    draw_release(&draw);
    return st;
}
