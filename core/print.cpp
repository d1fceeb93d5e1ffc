// Text in NumPy's style.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>

#include "reprise/core/fail.h"
#include "reprise/core/tensor.h"

namespace rp {
namespace {

constexpr int precision = 8, edge_items = 3, line_width = 75;
constexpr int64_t summarize_above = 1000;

// Digits of |v| without an exponent: the shortest that read back, at most `precision` behind the point, none that are
// zero.
template <class T>
std::string positional(T v) {
  char text[400];
  auto end = std::to_chars(text, text + sizeof text, v, std::chars_format::fixed).ptr;
  std::string s(text, end);
  const size_t point = s.find('.');
  if (point == std::string::npos) return s + ".";
  if (s.size() - point - 1 > precision) {
    end = std::to_chars(text, text + sizeof text, v, std::chars_format::fixed, precision).ptr;
    s.assign(text, end);
    while (s.back() == '0') s.pop_back();
  }
  return s;
}

// "1.5e+10", with at least `digits` behind the point.
template <class T>
std::string scientific(T v, size_t digits) {
  char text[64];
  auto end = std::to_chars(text, text + sizeof text, v, std::chars_format::scientific).ptr;
  std::string s(text, end);
  size_t e = s.find('e');
  if (const size_t point = s.find('.'); point != std::string::npos && e - point - 1 > precision) {
    end = std::to_chars(text, text + sizeof text, v, std::chars_format::scientific, precision).ptr;
    s.assign(text, end);
    e = s.find('e');
    size_t last = e;
    while (s[last - 1] == '0') --last;
    s.erase(last, e - last);
    e = last;
  }
  if (s.find('.') == std::string::npos) s.insert(e++, ".");
  for (size_t have = e - s.find('.') - 1; have < digits; ++have) s.insert(e++, "0");
  return s;
}

using Formatter = std::function<std::string(double)>;

// One width for all elements, as NumPy chooses it.
template <class T>
Formatter float_format(const std::vector<T>& values) {
  T largest = 0, smallest = INFINITY;
  bool any = false;
  for (T v : values)
    if (std::isfinite(v) && v != 0) {
      largest = std::max(largest, std::abs(v));
      smallest = std::min(smallest, std::abs(v));
      any = true;
    }
  const bool exponents = any && (largest >= T(1e8) || smallest < T(1e-4) || largest / smallest > T(1e3));
  size_t left = 0, right = 0, digits = 0;
  if (exponents)
    for (T v : values)
      if (std::isfinite(v)) {
        const std::string s = scientific(v, 0);
        digits = std::max(digits, s.find('e') - s.find('.') - 1);
      }
  const auto plain = [exponents, digits](T v) { return exponents ? scientific(v, digits) : positional(v); };
  for (T v : values) {
    if (!std::isfinite(v)) continue;
    const std::string s = plain(v);
    left = std::max(left, s.find('.'));
    right = std::max(right, s.size() - s.find('.') - 1);
  }
  for (T v : values)
    if (!std::isfinite(v)) {
      const size_t width = std::isnan(v) ? 3 : v < 0 ? 4 : 3;
      if (width > left + right + 1) left = width - right - 1;
    }
  return [=](double d) {
    const T v = static_cast<T>(d);
    if (!std::isfinite(v))
      return fmt::format("{:>{}}", std::isnan(v) ? "nan" : v < 0 ? "-inf" : "inf", left + right + 1);
    const std::string s = plain(v);
    const size_t point = s.find('.');
    return std::string(left - point, ' ') + s + std::string(right - (s.size() - point - 1), ' ');
  };
}

// Of the f32 that read back as this element, one with the fewest digits.
template <class E>
float with_fewest_digits(float v) {
  for (int digits = 0; digits < 5 && std::isfinite(v); ++digits) {
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, v, std::chars_format::scientific, digits).ptr;
    float shorter = 0;
    if (std::from_chars(text, end, shorter).ec == std::errc() && E(shorter) == v) return shorter;
  }
  return v;
}

// The elements that are shown, as text of one width, and which axes are cut short.
class Printer {
 public:
  Printer(const Tensor& t, std::vector<std::string> cells) : shape_(t.shape()), cells_(std::move(cells)) {
    cut_ = t.numel() > summarize_above;
  }

  std::string run() {
    if (!shape_.rank()) {
      const size_t from = cells_[0].find_first_not_of(' '), to = cells_[0].find_last_not_of(' ');
      return cells_[0].substr(from, to - from + 1);
    }
    if (!element_count(shape_)) return "[]";
    return axis(0, 0);
  }

 private:
  std::string axis(int a, int64_t first) {
    const int64_t n = shape_[a];
    const bool cut = cut_ && n > 2 * edge_items;
    std::vector<std::string> parts;
    int64_t each = 1;
    for (int i = a + 1; i < shape_.rank(); ++i) each *= shape_[i];
    for (int64_t i = 0; i < n; ++i) {
      if (cut && i == edge_items) {
        parts.push_back("...");
        i = n - edge_items;
      }
      parts.push_back(a + 1 == shape_.rank() ? cells_[static_cast<size_t>(first + i)] : axis(a + 1, first + i * each));
    }
    return a + 1 == shape_.rank() ? row(parts, a) : block(parts, a);
  }

  std::string row(const std::vector<std::string>& parts, int a) {
    const std::string indent(static_cast<size_t>(a) + 1, ' ');
    std::string text = "[", line = indent;
    text.clear();
    line = std::string(static_cast<size_t>(a), ' ') + "[";
    bool fresh = true;
    for (size_t i = 0; i < parts.size(); ++i) {
      const size_t closing = i + 1 == parts.size() ? static_cast<size_t>(a) + 1 : 1;
      if (!fresh && line.size() + 1 + parts[i].size() + closing > line_width) {
        text += line + "\n";
        line = indent;
        fresh = true;
      }
      line += (fresh ? "" : " ") + parts[i];
      fresh = false;
    }
    return (text + line).substr(static_cast<size_t>(a)) + "]";
  }

  std::string block(const std::vector<std::string>& parts, int a) {
    const std::string between =
        std::string(static_cast<size_t>(shape_.rank() - a - 1), '\n') + std::string(static_cast<size_t>(a) + 1, ' ');
    std::string text = "[";
    for (size_t i = 0; i < parts.size(); ++i) text += (i ? between : "") + parts[i];
    return text + "]";
  }

  Shape shape_;
  std::vector<std::string> cells_;
  bool cut_;
};

// Whether an element is left out when a large tensor is summarized.
bool hidden(const Shape& shape, int64_t index) {
  for (int a = shape.rank() - 1; a >= 0; --a) {
    const int64_t i = index % shape[a];
    if (shape[a] > 2 * edge_items && i >= edge_items && i < shape[a] - edge_items) return true;
    index /= shape[a];
  }
  return false;
}

std::vector<std::string> aligned(std::vector<std::string> cells) {
  size_t width = 0;
  for (const std::string& c : cells) width = std::max(width, c.size());
  for (std::string& c : cells) c.insert(0, width - c.size(), ' ');
  return cells;
}

}  // namespace

std::string to_string(const Tensor& t, Loc loc) {
  At at(loc);
  if (!t.defined()) return "undefined";
  const bool cut = t.numel() > summarize_above;
  const auto shown = [&](int64_t i) { return !cut || !hidden(t.shape(), i); };
  std::vector<std::string> cells(static_cast<size_t>(t.numel()));
  visit_dtype(t.dtype(), [&]<class E>(E) {
    using T = Computed<E>;
    std::vector<T> values = t.to_vector<T>(loc);
    if constexpr (std::is_floating_point_v<T>) {
      if constexpr (is_float16<E>)
        for (float& v : values) v = with_fewest_digits<E>(v);
      std::vector<T> visible;
      for (int64_t i = 0; i < t.numel(); ++i)
        if (shown(i)) visible.push_back(values[static_cast<size_t>(i)]);
      const Formatter format = float_format(visible);
      for (int64_t i = 0; i < t.numel(); ++i)
        if (shown(i)) cells[static_cast<size_t>(i)] = format(static_cast<double>(values[static_cast<size_t>(i)]));
    } else {
      for (int64_t i = 0; i < t.numel(); ++i)
        if (shown(i)) {
          if constexpr (std::is_same_v<T, bool>)
            cells[static_cast<size_t>(i)] = values[static_cast<size_t>(i)] ? "True" : "False";
          else
            cells[static_cast<size_t>(i)] = std::to_string(values[static_cast<size_t>(i)]);
        }
      cells = aligned(std::move(cells));
    }
  });
  return Printer(t, std::move(cells)).run();
}

}  // namespace rp
