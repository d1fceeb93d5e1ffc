#include "reprise/nn/dataset.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <set>
#include <stdexcept>
#include <thread>

#include "reprise/core/ops.h"
#include "reprise/core/random.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

/// Sample i is x = [i, -i], y = i.
Dataset<2> numbers(int64_t count) {
  Tensor y = arange(count), x = stack({y, -y}, 1).to(DType::f32);
  return {x, y};
}

std::vector<int64_t> labels(Dataset<2>& loader) {
  std::vector<int64_t> all;
  for (auto [x, y] : loader) {
    std::vector<int64_t> batch = y.to_vector<int64_t>();
    std::vector<float> rows = x.to_vector<float>();
    REQUIRE(rows.size() == 2 * batch.size());
    for (size_t i = 0; i < batch.size(); ++i) {
      CHECK(rows[2 * i] == static_cast<float>(batch[i]));
      CHECK(rows[2 * i + 1] == -static_cast<float>(batch[i]));
    }
    all.insert(all.end(), batch.begin(), batch.end());
  }
  return all;
}

std::vector<int64_t> count_to(int64_t n) {
  std::vector<int64_t> v(static_cast<size_t>(n));
  std::iota(v.begin(), v.end(), 0);
  return v;
}

}  // namespace

TEST_CASE("batches come in order, with or without the last one") {
  auto all = numbers(10).batch(4), whole = numbers(10).batch(4, true), even = numbers(8).batch(4);
  CHECK(all.size() == 3);
  CHECK(labels(all) == count_to(10));
  CHECK(whole.size() == 2);
  CHECK(labels(whole) == count_to(8));
  CHECK(even.size() == 2);
  CHECK(labels(even) == count_to(8));
  auto none = numbers(3).batch(4, true);
  CHECK(labels(none).empty());
  auto large = numbers(3).batch(100);
  CHECK(labels(large) == count_to(3));
}

TEST_CASE("without batch the samples come one by one") {
  int64_t next = 0;
  for (auto [x, y] : numbers(3)) {
    CHECK(x.shape() == Shape{2});
    CHECK(y.rank() == 0);
    CHECK(y.item<int64_t>() == next++);
  }
  CHECK(next == 3);
}

TEST_CASE("one and three tensors") {
  Dataset one(arange(4));
  int64_t seen = 0;
  for (auto [x] : one.batch(2).map([](const Tensor& x) { return x + 1; })) seen += sum(x).item<int64_t>();
  CHECK(seen == 10);
  Dataset three(arange(4), zeros({4, 0}), ones({4, 2, 2}));
  for (auto [a, b, c] : three.batch(3)) CHECK((b.numel() == 0 && c.rank() == 3));
}

TEST_CASE("shuffled epochs are permutations, differ, and can be repeated") {
  auto loader = numbers(100).shuffle(5).batch(7), again = numbers(100).shuffle(5).batch(7);
  auto other = numbers(100).shuffle(6).batch(7);
  std::vector<int64_t> first = labels(loader), second = labels(loader), sorted = first;
  std::sort(sorted.begin(), sorted.end());
  CHECK(sorted == count_to(100));
  CHECK(first != count_to(100));
  CHECK(first != second);
  CHECK(labels(again) == first);
  CHECK(labels(again) == second);
  CHECK(labels(other) != first);
  loader.set_epoch(0);
  CHECK(labels(loader) == first);
  CHECK(loader.epoch() == 1);
}

TEST_CASE("the order does not depend on the system") {
  auto loader = numbers(8).shuffle(1);
  CHECK(labels(loader) == std::vector<int64_t>{4, 2, 0, 5, 6, 1, 7, 3});
}

TEST_CASE("batches are tensors of their own, and strided samples are read right") {
  Tensor y = arange(6), x = arange(12).reshape({2, 6}).transpose();
  Tensors kept;
  for (auto [a, b] : Dataset(x, y).batch(2)) {
    CHECK(a.to_vector<int64_t>()[1] == b.to_vector<int64_t>()[0] + 6);
    a.zero_();
    kept.push_back(b);
  }
  CHECK(sum(x).item<int64_t>() == 66);
  CHECK(kept[0].to_vector<int64_t>() == std::vector<int64_t>{0, 1});
}

TEST_CASE("prefetching changes nothing but the time") {
  auto noisy = [](const Tensor& x, const Tensor& y) { return std::array{x + uniform({x.size(0), 1}), y}; };
  auto run = [&](int prefetch) {
    manual_seed(9);
    std::vector<float> all;
    auto loader = numbers(50).shuffle(2).batch(8).map(noisy).prefetch(prefetch);
    for (int epoch = 0; epoch < 2; ++epoch) {
      for (auto [x, y] : loader) {
        std::vector<float> v = x.to_vector<float>();
        all.insert(all.end(), v.begin(), v.end());
      }
    }
    CHECK(generator() == Generator{9, 0});
    return all;
  };
  std::vector<float> plain = run(0);
  CHECK(plain.size() == 200);
  CHECK(std::set<float>(plain.begin(), plain.end()).size() > 150);
  CHECK(run(1) == plain);
  CHECK(run(3) == plain);
}

TEST_CASE("what a prefetching thread throws arrives in its turn") {
  for (int prefetch : {0, 2}) {
    int seen = 0;
    auto loader = numbers(10).batch(2).prefetch(prefetch).map([](const Tensor& x, const Tensor& y) {
      if (y.to_vector<int64_t>()[0] == 6) throw std::runtime_error("no sixes");
      return std::array{x, y};
    });
    auto loop = [&] {
      for (auto [x, y] : loader) seen += static_cast<int>(y.size(0));
    };
    CHECK_THROWS_WITH(loop(), "no sixes");
    CHECK(seen == 6);
  }
}

TEST_CASE("a loop may be left while batches are being made") {
  for (int wait_ms : {0, 20}) {
    auto loader = numbers(1000).batch(1).prefetch(4);
    for (auto [x, y] : loader) {
      std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
      if (y.item<int64_t>() == 3) break;
    }
    CHECK(loader.epoch() == 1);
  }
}

TEST_CASE("maps follow each other and run without gradients") {
  Tensor scale = full({1}, 2);
  scale.set_requires_grad();
  auto loader = numbers(4)
                    .batch(4)
                    .map([&](const Tensor& x, const Tensor& y) { return std::array{x * scale, y}; })
                    .map([](const Tensor& x, const Tensor& y) { return std::array{x + 1, y}; });
  for (auto [x, y] : loader) {
    CHECK(x.to_vector<float>() == std::vector<float>{1, 1, 3, -1, 5, -3, 7, -5});
    CHECK(!x.requires_grad());
  }
}

TEST_CASE("senseless data sets are errors") {
  CHECK_THROWS_AS(Dataset(arange(3), arange(4)), Error);
  CHECK_THROWS_AS(Dataset(scalar(1)), Error);
  CHECK_THROWS_AS(Dataset(Tensor()), Error);
  CHECK_THROWS_AS(numbers(3).batch(0), Error);
  CHECK_THROWS_AS(numbers(3).prefetch(-1), Error);
  try {
    Dataset(arange(3), arange(4));
  } catch (const Error& e) {
    CHECK(e.where().line() == __LINE__ - 2);
  }
}
