#include "shapes.h"

#include <math.h>

static double radius(double x, double y)
{
    return sqrt(x * x + y * y);
}

static bool disc(double x, double y)
{
    return radius(x, y) < 0.85;
}

static bool ring(double x, double y)
{
    return radius(x, y) < 0.95 && radius(x, y) > 0.55;
}

static bool square(double x, double y)
{
    return fabs(x) < 0.78 && fabs(y) < 0.78;
}

static bool frame(double x, double y)
{
    const double far = fmax(fabs(x), fabs(y));

    return far < 0.88 && far > 0.5;
}

static bool triangle(double x, double y)
{
    return y < 0.75 && y > -0.95 && fabs(x) < (y + 0.95) * 0.56;
}

static bool cross(double x, double y)
{
    return fmin(fabs(x), fabs(y)) < 0.26 && fmax(fabs(x), fabs(y)) < 0.95;
}

static bool saltire(double x, double y)
{
    return cross((x + y) * 0.7071, (x - y) * 0.7071);
}

static bool star(double x, double y)
{
    const double turn = fmod(atan2(x, -y) / 6.283185307 * 5 + 5, 1.0);
    const double edge = fabs(turn - 0.5) * 2; /* 1 at a tip, 0 in a notch */

    return radius(x, y) < 0.4 + 0.6 * edge * edge;
}

static bool stripes(double x, double y)
{
    return fmax(fabs(x), fabs(y)) < 0.95 && fmod(y + 3, 0.64) < 0.32;
}

static bool bars(double x, double y)
{
    return stripes(y, x);
}

static bool checker(double x, double y)
{
    return fmax(fabs(x), fabs(y)) < 0.95 &&
           ((int)floor((x + 2) / 0.475) + (int)floor((y + 2) / 0.475)) % 2 == 0;
}

static bool moon(double x, double y)
{
    return radius(x, y) < 0.92 && radius(x - 0.42, y) > 0.72;
}

static bool diamond(double x, double y)
{
    return fabs(x) / 0.55 + fabs(y) / 0.98 < 1;
}

static bool heart(double x, double y)
{
    const double a = x * 1.25, b = -y * 1.2 + 0.1;
    const double c = a * a + b * b - 0.8;

    return c * c * c - a * a * b * b * b < 0;
}

static bool arrow(double x, double y)
{
    return (y < -0.05 && y > -0.95 && fabs(x) < (y + 0.95) * 0.85) ||
           (y >= -0.05 && y < 0.92 && fabs(x) < 0.24);
}

static bool ell(double x, double y)
{
    return (fabs(x + 0.5) < 0.26 && fabs(y) < 0.9) || (fabs(x) < 0.76 && fabs(y - 0.64) < 0.26);
}

static bool tee(double x, double y)
{
    return (fabs(x) < 0.25 && fabs(y) < 0.9) || (fabs(x) < 0.85 && fabs(y + 0.65) < 0.26);
}

static bool hourglass(double x, double y)
{
    return fabs(y) < 0.9 && fabs(x) < fabs(y) * 0.85 + 0.06;
}

static bool bowtie(double x, double y)
{
    return hourglass(y, x);
}

static bool dots(double x, double y)
{
    const double a = fmod(x + 4 * 0.62 + 0.31, 0.62) - 0.31;
    const double b = fmod(y + 4 * 0.62 + 0.31, 0.62) - 0.31;

    return fmax(fabs(x), fabs(y)) < 0.93 && radius(a, b) < 0.2;
}

static bool target(double x, double y)
{
    const double r = radius(x, y);

    return r < 0.3 || (r > 0.55 && r < 0.9);
}

static bool zigzag(double x, double y)
{
    const double wave = fabs(fmod(x + 3, 0.8) - 0.4) * 1.6 - 0.32;

    return fabs(x) < 0.95 && fabs(y - wave) < 0.27;
}

static bool wedge(double x, double y)
{
    return radius(x, y) < 0.9 && !(x > 0 && fabs(y) < x * 0.75);
}

static bool house(double x, double y)
{
    return (fabs(x) < 0.55 && y > -0.05 && y < 0.85) ||
           (y <= -0.05 && y > -0.9 && fabs(x) < (y + 0.9) * 1.05);
}

static bool comb(double x, double y)
{
    return fabs(x) < 0.9 &&
           ((y > 0.35 && y < 0.85) || (y <= 0.35 && y > -0.85 && fmod(x + 2.9, 0.72) < 0.36));
}

static bool hexagon(double x, double y)
{
    return fabs(y) < 0.76 && fabs(x) * 0.866 + fabs(y) * 0.5 < 0.76;
}

static bool grid(double x, double y)
{
    return fmax(fabs(x), fabs(y)) < 0.95 &&
           (fmod(x + 2.83, 0.68) < 0.24 || fmod(y + 2.83, 0.68) < 0.24);
}

static bool half(double x, double y)
{
    return radius(x, y + 0.4) < 0.95 && y > -0.4;
}

/* Each increment takes classes from the end: keep the order, it is part of what a seed means. */
const struct learner_shape learner_shapes[] = {
    {"disc", 0.00, disc},
    {"square", 0.55, square},
    {"triangle", 0.15, triangle},
    {"cross", 0.70, cross},
    {"stripes", 0.30, stripes},
    {"frame", 0.85, frame},
    {"hourglass", 0.45, hourglass},
    {"checker", 0.05, checker},
    {"diamond", 0.60, diamond},
    {"tee", 0.20, tee},
    {"moon", 0.75, moon},
    {"bars", 0.35, bars},
    {"dots", 0.90, dots},
    {"arrow", 0.50, arrow},
    {"wedge", 0.10, wedge},
    {"house", 0.65, house},
    {"zigzag", 0.25, zigzag},
    {"target", 0.80, target},
    {"ell", 0.40, ell},
    {"grid", 0.95, grid},
    {"comb", 0.57, comb},
    {"bowtie", 0.13, bowtie},
    {"hexagon", 0.72, hexagon},
    {"half", 0.33, half},
    {"saltire", 0.87, saltire},
    {"heart", 0.97, heart},
    {"ring", 0.47, ring},
    {"star", 0.17, star},
};
const size_t learner_shape_count = sizeof learner_shapes / sizeof learner_shapes[0];
