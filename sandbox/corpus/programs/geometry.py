# ---- triangle_centers
from sympy import Point, Triangle
t = Triangle(Point(0, 0), Point(14, 0), Point(5, 12))
print(t.area, t.centroid, t.orthocenter, t.circumcenter, t.circumradius)
# ---- inradius
from sympy import *
t = Triangle(Point(0, 0), Point(15, 0), Point(0, 8))
print(t.inradius, t.incenter, t.incircle)
# ---- circle_intersection
from sympy import Point, Circle, Line
c = Circle(Point(0, 0), 5)
print(c.intersection(Line(Point(-7, 1), Point(7, 1))), c.intersection(Circle(Point(6, 0), 5)))
# ---- line_distance
from sympy import Line, Point
l = Line(Point(1, 2), Point(4, 6))
print(l.distance(Point(5, 0)), l.slope, l.equation(), l.perpendicular_line(Point(0, 0)).equation())
# ---- polygon_shoelace
from sympy import Polygon, Point
p = Polygon((0, 0), (4, 0), (6, 3), (3, 7), (-1, 4))
print(p.area, p.perimeter, p.is_convex())
pts = [(0, 0), (4, 0), (6, 3), (3, 7), (-1, 4)]
print(abs(sum(x1*y2 - x2*y1 for (x1, y1), (x2, y2) in zip(pts, pts[1:] + pts[:1])))/2)
# ---- law_of_cosines
from sympy import sqrt, acos, cos, Rational, simplify, deg
a, b, c = 13, 14, 15
cosC = Rational(a*a + b*b - c*c, 2*a*b)
s = Rational(a + b + c, 2)
print(cosC, sqrt(s*(s-a)*(s-b)*(s-c)), float(round(deg(acos(cosC)), 6)))
# ---- heron_search
from math import isqrt
found = []
for a in range(1, 30):
    for b in range(a, 30):
        for c in range(b, min(a + b, 30)):
            s = a + b + c
            q = s*(s - 2*a)*(s - 2*b)*(s - 2*c)
            r = isqrt(q)
            if r*r == q and r % 4 == 0 and r // 4 == s:
                found.append((a, b, c))
print(found)
# ---- regular_polygon
from sympy import RegularPolygon, Point, simplify
h = RegularPolygon(Point(0, 0), 2, 6)
print(h.area, h.apothem, h.interior_angle, [v.args for v in h.vertices[:3]])
# ---- three_d_plane
from sympy import Point3D, Plane, Line3D
p = Plane(Point3D(1, 0, 0), Point3D(0, 2, 0), Point3D(0, 0, 3))
print(p.equation(), p.distance(Point3D(0, 0, 0)), p.intersection(Line3D((0, 0, 0), (1, 1, 1))))
# ---- tetrahedron_volume
from sympy import Matrix, Rational
A, B, C, D = [Matrix(v) for v in ((0, 0, 0), (3, 0, 1), (1, 4, 0), (2, 1, 5))]
print(Rational(abs(Matrix.hstack(B - A, C - A, D - A).det()), 6))
# ---- ellipse
from sympy import Ellipse, Point, Line
e = Ellipse(Point(0, 0), 5, 3)
print(e.area, e.eccentricity, e.foci, e.tangent_lines(Point(5, 0)))
# ---- angle_between
from sympy import Line, Point, pi
a = Line(Point(0, 0), Point(1, 1)).angle_between(Line(Point(0, 0), Point(0, 2)))
print(a, a == pi/4)
# ---- midpoint_reflection
from sympy import Point, Line, Segment
P = Point(3, -1)
print(P.midpoint(Point(7, 5)), P.reflect(Line(Point(0, 0), Point(1, 2))), Segment((0, 0), (6, 8)).length)
# ---- collinear_concyclic
from sympy import Point
a, b, c, d = Point(0, 0), Point(2, 0), Point(2, 2), Point(0, 2)
print(Point.is_collinear(a, b, Point(5, 0)), a.is_concyclic(b, c, d))
# ---- tangent_circle_radius
from sympy import *
r = symbols('r', positive=True)
print(solve(Eq(sqrt((4 + r)**2 - (4 - r)**2) + sqrt((9 + r)**2 - (9 - r)**2), 12), r))
# ---- lattice_points_circle
print([sum(1 for x in range(-r, r + 1) for y in range(-r, r + 1) if x*x + y*y <= r*r) for r in range(1, 11)])
# ---- picks_theorem
from math import gcd
v = [(0, 0), (8, 1), (10, 7), (3, 9)]
e = list(zip(v, v[1:] + v[:1]))
A2 = abs(sum(a[0]*b[1] - a[1]*b[0] for a, b in e))
B = sum(gcd(abs(a[0] - b[0]), abs(a[1] - b[1])) for a, b in e)
print(A2/2, B, (A2 - B + 2)//2)
# ---- convex_hull
from sympy import convex_hull, Point
h = convex_hull((0, 0), (4, 0), (4, 4), (0, 4), (2, 2), (1, 3), (5, 2))
print(h, h.area)
# ---- coordinate_solve
from sympy import symbols, solve, sqrt
x, y = symbols('x y', real=True)
print(solve([(x - 0)**2 + y**2 - 169, (x - 14)**2 + y**2 - 225, ], [x, y]))
# ---- complex_rotation
from sympy import *
w = exp(2*pi*I/3)
z = 2 + I
print(expand((z*w).rewrite(cos)), simplify(expand_complex(z*w + z*w**2)))
# ---- numeric_angles
import math
a, b, c = 7, 8, 9
A = math.degrees(math.acos((b*b + c*c - a*a)/(2*b*c)))
print(f"{A:.4f}", round(0.5*b*c*math.sin(math.radians(A)), 6))
# ---- ptolemy
import cmath, math
pts = [cmath.rect(1, t) for t in (0.3, 1.1, 2.9, 4.4)]
d = lambda i, j: abs(pts[i] - pts[j])
print(math.isclose(d(0, 2)*d(1, 3), d(0, 1)*d(2, 3) + d(1, 2)*d(3, 0)))
