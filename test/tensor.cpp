// Tensors: creation, host access, views of every kind and writes through them, casts, promotion, broadcasting,
// printing.
#include "reprise/core/tensor.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "reprise/core/error.h"
#include "reprise/core/ops.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

constexpr DType dtypes[] = {DType::boolean, DType::i32, DType::i64, DType::bf16, DType::f16, DType::f32, DType::f64};
using Ints = std::vector<int64_t>;

Tensor count(const Shape& shape) { return arange(element_count(shape)).reshape(shape); }
Ints ints(const Tensor& t) { return t.to_vector<int64_t>(); }

}  // namespace

TEST_CASE("handles", "[tensor]") {
  const Tensor none, x = tensor({1.f, 2.f}), same = x, other = x.clone();
  CHECK(!none.defined());
  CHECK(none.is(Tensor()));
  CHECK(same.is(x));
  CHECK(!other.is(x));
  CHECK(!other.shares_storage(x));
  CHECK(x[0].shares_storage(x));
  CHECK(x.detach().shares_storage(x));
  CHECK(!none.shares_storage(none));
  Tensor moved = std::move(const_cast<Tensor&>(other));
  CHECK(moved.numel() == 2);
  const Tensor& same_handle = moved;
  moved = same_handle;
  CHECK(moved.numel() == 2);
}

TEST_CASE("creation and host access, for every dtype", "[tensor]") {
  CHECK(ints(full({2, 2}, 7, DType::i32)) == Ints{7, 7, 7, 7});
  CHECK(ints(arange(4, 3, -2)) == Ints{3, 1, -1, -3});
  CHECK(arange(3, 0.5, 0.25, DType::f64).to_vector<double>() == std::vector{0.5, 0.75, 1.0});
  CHECK(scalar(2.5).item<double>() == 2.5);
  CHECK(scalar(true, DType::boolean).item<bool>());
  CHECK(zeros({0}).numel() == 0);
  CHECK(zeros({}).rank() == 0);
  CHECK(ones_like(count({2, 3})).spec() == Spec{DType::i64, {2, 3}, {}});
  for (DType d : dtypes) {
    const Tensor x = tensor({0, 1, 1}).to(d);
    CHECK(x.dtype() == d);
    CHECK(x.to_vector<bool>() == std::vector<bool>{false, true, true});
    CHECK(x.to_vector<int32_t>() == std::vector<int32_t>{0, 1, 1});
    CHECK(x.to_vector<int64_t>() == Ints{0, 1, 1});
    CHECK(x.to_vector<float>() == std::vector<float>{0, 1, 1});
    CHECK(x.to_vector<double>() == std::vector<double>{0, 1, 1});
    CHECK(x[1].item<int64_t>() == 1);
    CHECK(x[0].item<bool>() == false);
    Tensor y = x.clone();
    y.copy_from(std::span<const double>(std::vector<double>{1, 0, 1}));
    CHECK(ints(y) == Ints{1, 0, 1});
    CHECK(ints(x) == Ints{0, 1, 1});
  }
  CHECK(tensor({true, false}).data<bool>()[0]);
  CHECK(count({2, 3}).data<int64_t>().size() == 6);
  CHECK(count({2, 3}).size(-1) == 3);
}

TEST_CASE("copy_from and unsafe_data write into views", "[tensor]") {
  Tensor x = count({3, 4}), column = x.select(1, 2);
  column.copy_from(std::span<const int32_t>(std::vector<int32_t>{-1, -2, -3}));
  CHECK(ints(x) == Ints{0, 1, -1, 3, 4, 5, -2, 7, 8, 9, -3, 11});
  Tensor row = x[1];
  row.unsafe_data<int64_t>()[3] = 100;
  CHECK(ints(x[1]) == Ints{4, 5, -2, 100});
  CHECK_THROWS_AS(column.unsafe_data<int64_t>(), Error);
}

TEST_CASE("memory of somebody else", "[tensor]") {
  float values[6] = {0, 1, 2, 3, 4, 5};
  int released = 0;
  {
    const Tensor x = from_blob(values, {2, 3}, [](void* n) { ++*static_cast<int*>(n); }, &released);
    const Tensor row = x[1];
    values[3] = 30;
    CHECK(row.to_vector<float>() == std::vector<float>{30, 4, 5});
    row *= 2;
    CHECK(values[5] == 10);
    CHECK(sum(x).item<float>() == 81);
    CHECK(released == 0);
  }
  CHECK(released == 1);
  CHECK(from_blob(values, {6}).to_vector<float>()[3] == 60);
  CHECK(from_blob<float>(nullptr, {0, 3}).numel() == 0);
}

TEST_CASE("views share elements, at the strides expected", "[tensor]") {
  const Tensor x = count({2, 3, 4});
  const auto lies = [&](const Tensor& v, const Strides& strides, const Ints& want) {
    CHECK(v.shares_storage(x));
    CHECK(v.strides() == strides);
    CHECK(ints(v) == want);
  };
  lies(x.select(0, 1).select(0, 2), {1}, {20, 21, 22, 23});
  lies(x[-1][0], {1}, {12, 13, 14, 15});
  lies(x.select(2, -1), {12, 4}, {3, 7, 11, 15, 19, 23});
  lies(x.slice(2, 0, 4, 3), {12, 4, 3}, {0, 3, 4, 7, 8, 11, 12, 15, 16, 19, 20, 23});
  lies(x.slice(1, -2, -1).squeeze(1), {12, 1}, {4, 5, 6, 7, 16, 17, 18, 19});
  lies(x.permute({2, 0, 1}).select(0, 1), {12, 4}, {1, 5, 9, 13, 17, 21});
  lies(x.transpose(0, 2).select(2, 0), {1, 4}, {0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11});
  lies(x.transpose(0, 1).slice(2, 0, 1), {4, 12, 1}, {0, 12, 4, 16, 8, 20});
  lies(x.reshape({6, 4}).slice(0, 0, 6, 5), {20, 1}, {0, 1, 2, 3, 20, 21, 22, 23});
  lies(x.flatten(0, 1).select(1, 0), {4}, {0, 4, 8, 12, 16, 20});
  lies(x.slice(2, 0, 2).reshape({6, 2}).select(1, 1), {4}, {1, 5, 9, 13, 17, 21});
  lies(x[0][0].unsqueeze(-1).expand({4, 2}), {1, 0}, {0, 0, 1, 1, 2, 2, 3, 3});
  lies(x.slice(0, 1, 1), {12, 4, 1}, {});
  CHECK(!x.transpose().reshape({24}).shares_storage(x));
  CHECK(ints(x.transpose(1, 2)[0].reshape({12})) == Ints{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11});
  CHECK(x.reshape({2, 3, 4}).is(x));
  CHECK(x.permute({0, 1, 2}).is(x));
  CHECK(x.expand({2, 3, 4}).is(x));
  CHECK(x.contiguous().is(x));
  CHECK(!x.transpose().contiguous().shares_storage(x));
  CHECK(zeros({}).reshape({1, 1}).shape() == Shape{1, 1});
  CHECK(zeros({0, 3}).reshape({3, -1, 1}).shape() == Shape{3, 0, 1});
  CHECK(zeros({}).flatten().shape() == Shape{1});
}

TEST_CASE("writes through views are seen through all", "[tensor]") {
  const Tensor x = zeros({3, 4}, DType::i64), t = x.transpose(), row = x[1], corner = x.slice(0, 0, 2).slice(1, 2, 4);
  row.fill_(1);
  CHECK(ints(t[0]) == Ints{0, 1, 0});
  t[3] += 5;
  CHECK(ints(x) == Ints{0, 0, 0, 5, 1, 1, 1, 6, 0, 0, 0, 5});
  corner *= 10;
  CHECK(ints(row) == Ints{1, 1, 10, 60});
  t.slice(0, 0, 4, 2).copy_(tensor({7, 8, 9}));
  CHECK(ints(x) == Ints{7, 0, 7, 50, 8, 1, 8, 60, 9, 0, 9, 5});
  x.select(1, 1).copy_(x.select(1, 3));
  CHECK(ints(t[1]) == Ints{50, 60, 5});
  x.zero_();
  CHECK(ints(corner) == Ints{0, 0, 0, 0});
}

TEST_CASE("writes that overlap what they read", "[tensor]") {
  const Tensor x = arange(6);
  x.slice(0, 1, 6).copy_(x.slice(0, 0, 5));
  CHECK(ints(x) == Ints{0, 0, 1, 2, 3, 4});
  x.slice(0, 0, 5).copy_(x.slice(0, 1, 6));
  CHECK(ints(x) == Ints{0, 1, 2, 3, 4, 4});
  const Tensor m = count({3, 3});
  m.copy_(m.transpose());
  CHECK(ints(m) == Ints{0, 3, 6, 1, 4, 7, 2, 5, 8});
  m += m.transpose();
  CHECK(ints(m) == Ints{0, 4, 8, 4, 8, 12, 8, 12, 16});
  m.slice(0, 1, 3) += m.slice(0, 0, 2);
  CHECK(ints(m) == Ints{0, 4, 8, 4, 12, 20, 12, 20, 28});
  const Tensor large = arange(100000);
  large.slice(0, 1, 100000) += large.slice(0, 0, 99999);
  CHECK(sum(large).item<int64_t>() == 99999 + 2 * (int64_t{99999} * 99998 / 2));
  m *= m[0][1];
  CHECK(ints(m)[8] == 112);
}

TEST_CASE("in-place forms keep shape and dtype", "[tensor]") {
  const Tensor x = tensor({1.f, -2.f, 3.f});
  CHECK((x += tensor({1, 1, 1})).is(x));
  CHECK(x.to_vector<float>() == std::vector<float>{2, -1, 4});
  x -= 1;
  x /= tensor({2.f});
  CHECK(x.to_vector<float>() == std::vector<float>{0.5, -1, 1.5});
  CHECK(clamp_(x, -0.5, 1).to_vector<float>() == std::vector<float>{0.5, -0.5, 1});
  CHECK(relu_(x).to_vector<float>() == std::vector<float>{0.5, 0, 1});
  x += tensor({0.25});
  CHECK(x.dtype() == DType::f32);
  CHECK(x.to_vector<float>() == std::vector<float>{0.75, 0.25, 1.25});
}

TEST_CASE("casts between all dtypes", "[tensor]") {
  const double source[] = {0, 1, -1, 2.75, -2.75, 300, 3e9, -3e9, 1e19, -1e19, NAN, INFINITY, -INFINITY};
  const Tensor x = tensor(std::span<const double>(source), {13});
  const int32_t low = std::numeric_limits<int32_t>::min();
  const int64_t low64 = std::numeric_limits<int64_t>::min();
  CHECK(x.to(DType::i32).to_vector<int32_t>() ==
        std::vector<int32_t>{0, 1, -1, 2, -2, 300, low, low, low, low, low, low, low});
  CHECK(ints(x.to(DType::i64)) ==
        Ints{0, 1, -1, 2, -2, 300, 3000000000, -3000000000, low64, low64, low64, low64, low64});
  CHECK(x.to(DType::boolean).to_vector<bool>() ==
        std::vector<bool>{false, true, true, true, true, true, true, true, true, true, true, true, true});
  CHECK(x.to(DType::f32).to_vector<float>()[8] == 1e19f);
  CHECK(x.to(DType::f64).is(x));
  for (DType a : dtypes)
    for (DType b : dtypes) {
      const Tensor v = x.slice(0, 0, 6).to(a), w = v.to(b);
      CHECK(w.dtype() == b);
      visit_dtype(b, [&]<class T>(T) { CHECK(w.to_vector<double>() == v.to(DType::f64).to(b).to_vector<double>()); });
    }
  CHECK(tensor({std::numeric_limits<int64_t>::max()}).to(DType::f32).item<float>() == 0x1p63f);
  CHECK(tensor({(int64_t{1} << 53) + 1}).to(DType::f64).item<double>() == 0x1p53);
  CHECK(tensor({int64_t{1} << 40}).to(DType::i32).item<int32_t>() == 0);
  CHECK(tensor({1e300, -1e300, 1e-300}).to(DType::f32).to_vector<float>() ==
        std::vector<float>{INFINITY, -INFINITY, 0});
}

TEST_CASE("promotion is the greater dtype; of both 16-bit floats, f32", "[tensor]") {
  for (DType a : dtypes)
    for (DType b : dtypes) {
      const Tensor x = ones({2}, a), y = ones({2}, b);
      const bool apart = is_short(a) && is_short(b) && a != b;
      const DType both = apart ? DType::f32 : std::max(a, b), number = std::max(both, DType::i32);
      CHECK(maximum(x.to(std::max(a, DType::i32)), y).dtype() == number);
      CHECK(concat({x, y}).dtype() == both);
      CHECK(matmul(x, y).dtype() == number);
      CHECK(matmul(x, y).item<int32_t>() == 2);
    }
}

TEST_CASE("broadcasting follows NumPy", "[tensor]") {
  const auto shape = [](const Shape& a, const Shape& b) { return (zeros(a) + zeros(b)).shape(); };
  CHECK(shape({8, 1, 6, 1}, {7, 1, 5}) == Shape{8, 7, 6, 5});
  CHECK(shape({5, 4}, {1}) == Shape{5, 4});
  CHECK(shape({15, 3, 5}, {15, 1, 5}) == Shape{15, 3, 5});
  CHECK(shape({15, 3, 5}, {3, 1}) == Shape{15, 3, 5});
  CHECK(shape({0, 1}, {1, 3}) == Shape{0, 3});
  CHECK(shape({0}, {}) == Shape{0});
  CHECK_THROWS_AS(shape({3}, {4}), Error);
  CHECK_THROWS_AS(shape({2, 1}, {8, 4, 3}), Error);
  CHECK_THROWS_AS(shape({0}, {2}), Error);
  CHECK(ints(tensor({1, 2}).reshape({2, 1}) * 10 + tensor({1, 2, 3})) == Ints{11, 12, 13, 21, 22, 23});
}

TEST_CASE("empty and 0-d tensors work everywhere", "[tensor]") {
  const Tensor empty = zeros({2, 0}), point = scalar(3);
  CHECK(exp(empty).shape() == Shape{2, 0});
  CHECK((empty + point).shape() == Shape{2, 0});
  CHECK(sum(empty, {1}).to_vector<float>() == std::vector<float>{0, 0});
  CHECK(sum(empty).item<float>() == 0);
  CHECK(sum(point).item<float>() == 3);
  CHECK(max(point).item<float>() == 3);
  CHECK(mean(point, {}, true).shape() == Shape{});
  CHECK(matmul(empty, zeros({0, 3})).to_vector<float>() == std::vector<float>(6, 0.f));
  CHECK(matmul(zeros({0, 2}), empty).shape() == Shape{0, 0});
  CHECK(softmax(empty).shape() == Shape{2, 0});
  CHECK(concat({empty, ones({2, 1})}, 1).shape() == Shape{2, 1});
  CHECK(stack({point, point}).shape() == Shape{2});
  CHECK(empty.clone().transpose().shape() == Shape{0, 2});
  CHECK(empty.fill_(1).numel() == 0);
  CHECK((point.clone() += 1).item<float>() == 4);
  CHECK(index_select(ones({3, 0}), tensor({2, 0})).shape() == Shape{2, 0});
  CHECK(one_hot(tensor({2}).reshape({}), 3).to_vector<float>() == std::vector<float>{0, 0, 1});
  CHECK(empty.to_vector<float>().empty());
}

TEST_CASE("printing is NumPy's", "[tensor]") {
  CHECK(to_string(scalar(1.5)) == "1.5");
  CHECK(to_string(scalar(3.25, DType::f64)) == "3.25");
  CHECK(to_string(scalar(-7, DType::i64)) == "-7");
  CHECK(to_string(scalar(true, DType::boolean)) == "True");
  CHECK(to_string(tensor({1.f, 2.f, 3.5f})) == "[1.  2.  3.5]");
  CHECK(to_string(tensor({1., 2., 3.})) == "[1. 2. 3.]");
  CHECK(to_string(count({2, 3})) == "[[0 1 2]\n [3 4 5]]");
  CHECK(to_string(tensor({-1, 10, -100})) == "[  -1   10 -100]");
  CHECK(to_string(tensor({true, false, false, true}).reshape({2, 2})) == "[[ True False]\n [False  True]]");
  CHECK(to_string(count({2, 2, 2})) == "[[[0 1]\n  [2 3]]\n\n [[4 5]\n  [6 7]]]");
  CHECK(to_string(zeros({0})) == "[]");
  CHECK(to_string(zeros({2, 0, 3})) == "[]");
  CHECK(to_string(count({2, 3}).transpose()) == "[[0 3]\n [1 4]\n [2 5]]");
}

TEST_CASE("printing picks NumPy's precision", "[tensor]") {
  CHECK(to_string(tensor({1e-5, 1., 1e5})) == "[1.e-05 1.e+00 1.e+05]");
  CHECK(to_string(tensor({1e-10f, 1.f, 1e10f})) == "[1.e-10 1.e+00 1.e+10]");
  CHECK(to_string(tensor({double(NAN), HUGE_VAL, -HUGE_VAL, 0., -0.})) == "[ nan  inf -inf   0.  -0.]");
  CHECK(to_string(tensor({0.1, 0.2, 1 / 3.})) == "[0.1        0.2        0.33333333]");
  CHECK(to_string(tensor({123456789.f, 1.5f})) == "[1.2345679e+08 1.5000000e+00]");
  CHECK(to_string(tensor({1e20, 1.})) == "[1.e+20 1.e+00]");
  CHECK(to_string(tensor({1e8})) == "[1.e+08]");
  CHECK(to_string(arange(12, 0, 1, DType::f32).reshape({2, 6}) / 7) ==
        "[[0.         0.14285715 0.2857143  0.42857143 0.5714286  0.71428573]\n"
        " [0.85714287 1.         1.1428572  1.2857143  1.4285715  1.5714285 ]]");
}

TEST_CASE("printing shortens and wraps as NumPy does", "[tensor]") {
  CHECK(to_string(arange(2000)) == "[   0    1    2 ... 1997 1998 1999]");
  CHECK(to_string(arange(1001, 0, 1, DType::f32)) == "[   0.    1.    2. ...  998.  999. 1000.]");
  CHECK(to_string(count({40, 40})) ==
        "[[   0    1    2 ...   37   38   39]\n [  40   41   42 ...   77   78   79]\n [  80   81   82 ...  117  118  "
        "119]\n ...\n"
        " [1480 1481 1482 ... 1517 1518 1519]\n [1520 1521 1522 ... 1557 1558 1559]\n [1560 1561 1562 ... 1597 1598 "
        "1599]]");
  CHECK(to_string(arange(24, 0, 1, DType::f64) / 3) ==
        "[0.         0.33333333 0.66666667 1.         1.33333333 1.66666667\n"
        " 2.         2.33333333 2.66666667 3.         3.33333333 3.66666667\n"
        " 4.         4.33333333 4.66666667 5.         5.33333333 5.66666667\n"
        " 6.         6.33333333 6.66666667 7.         7.33333333 7.66666667]");
}
