#include "kernels/fixed_point.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/codebook.h"

namespace quash {
namespace {

// Least squared error over coordinates of a uniform point on the sphere, with the levels
// of LevelCodebook; `reach` in units of the root mean square.
struct Curve {
  float reach;
  float curve[3];
};

constexpr Curve kCurves[2][3] = {
    {{0.976046f, {1, 0, 0}},  // dim 64: 2, 3 and 4 bits; of one boundary there is no curve
     {2.739f, {5.6235362f, -0.2949771f, -1.6785698f}},
     {3.0105f, {12.0268199f, -1.5842126f, -2.9532908f}}},
    {{0.978823f, {1, 0, 0}},  // 128
     {2.7255f, {5.5603425f, -0.2582632f, -1.6815267f}},
     {3.0135f, {11.9882717f, -1.6484440f, -2.8955848f}}},
};

}  // namespace

FixedPointCode MakeFixedPointCode(uint32_t dim, uint32_t bits) {
  if ((dim != 64 && dim != 128) || bits < 2 || bits > 4) {
    throw std::invalid_argument("no fixed-point code of dim " + std::to_string(dim) + " and " +
                                std::to_string(bits) + " bits");
  }
  const Curve& curve = kCurves[dim == 128][bits - 2];
  const Codebook& codebook = GetCodebook(dim, bits);
  const double step = MakeLevelCodebook(codebook).step;
  FixedPointCode code = {};
  code.bits = bits;
  code.reach = std::sqrt(static_cast<float>(dim)) / curve.reach;
  std::copy_n(curve.curve, 3, code.curve);
  code.scale_base = static_cast<float>(step / 2);
  code.scale_part = static_cast<float>((1 - codebook.MseCost()) / (2 * step));
  return code;
}

int FixedPointShift(float largest) {
  if (!(largest > 0)) return 113;
  int exponent;
  std::frexp(std::min(largest, std::numeric_limits<float>::max()), &exponent);
  return 14 - std::max(exponent, -99);
}

}  // namespace quash
