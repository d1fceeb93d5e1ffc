// Programs: made from a seed, written and read as text.
#include <algorithm>
#include <numeric>
#include <sstream>
#include <stdexcept>

#include "reprise/test/fuzz.h"

namespace fuzz {

std::span<const Action> actions() {
  static const std::vector<Action> all = [] {
    std::vector<Action> list;
    for (auto part : {pure_actions(), view_actions(), effect_actions(), control_actions(), gradient_actions()})
      list.insert(list.end(), part.begin(), part.end());
    return list;
  }();
  return all;
}

namespace {

int action_named(std::string_view name) {
  for (size_t i = 0; i < actions().size(); ++i)
    if (actions()[i].name == name) return static_cast<int>(i);
  throw std::runtime_error("there is no statement " + std::string(name));
}

// ---- at random ----

class Generator {
 public:
  explicit Generator(uint64_t seed) : dice_{seed * 0x2545f4914f6cdd1dull + 1} {
    gradients_ = dice_.one_in(2);
    wild_ = dice_.one_in(2) ? 0 : dice_.one_in(2) ? 10 : 5;
  }

  Program program(uint64_t seed) {
    Program p{.seed = seed};
    p.iterations = roll(6, 14);
    size(p);
    for (int i = roll(1, 3); i > 0; --i) p.inputs.push_back(input());
    for (int i = roll(2, 6); i > 0; --i) p.variables.push_back(variable());
    variables_ = static_cast<int>(p.variables.size());
    if (dice_.one_in(6)) image(p);
    const bool weighty = dice_.one_in(8), windowed = dice_.one_in(8);
    if (weighty) weights(p);
    p.functions.push_back(block(dice_.one_in(4) ? roll(20, 60) : roll(4, 25), 0));
    if (dice_.one_in(3)) p.functions.push_back(block(roll(2, 7), 1));
    if (p.functions.size() > 1 && dice_.one_in(3)) p.functions.push_back(block(roll(2, 5), 1));
    if (!dice_.one_in(3)) p.between = between(roll(1, 3));
    if (weighty) use_weights(p);
    if (windowed) windows(p);
    if (dice_.one_in(5)) p.tail = dice_.one_in(4) ? 1 : roll(1, p.dims[0]);
    if (dice_.one_in(4)) p.aliased = roll(1, p.iterations - 1);
    p.errors_escape = dice_.one_in(4);
    if (dice_.one_in(10)) p.max_pending = roll(1, 30);
    return p;
  }

 private:
  int roll(int low, int high) { return low + static_cast<int>(dice_.below(high - low + 1)); }

  void size(Program& p) {
    const bool large = dice_.one_in(8), huge = dice_.one_in(40);
    p.dims[0] = huge ? roll(60, 200) : large ? roll(5, 40) : roll(1, 6);
    p.dims[1] = huge ? roll(100, 300) : large ? roll(9, 80) : roll(1, 9);
    p.dims[2] = large ? roll(3, 20) : roll(1, 5);
    p.dims[3] = roll(1, 3);
    p.largest = huge ? 200000 : large ? 40000 : 3000;
  }

  Input input() {
    static constexpr int shapes[] = {0, 0, 0, 4, 2, 3, 6, 9};
    Input in{.shape = shapes[dice_.below(std::size(shapes))]};
    static constexpr DType others[] = {DType::i64, DType::f64, DType::bf16, DType::f16};
    if (dice_.one_in(6)) in.dtype = others[dice_.below(std::size(others))];
    in.source = dice_.one_in(2) ? Source::fresh : static_cast<Source>(dice_.below(8));
    return in;
  }

  Variable variable() {
    static constexpr int shapes[] = {1, 3, 3, 2, 2, 0, 9, 5};
    Variable v{.shape = shapes[dice_.below(std::size(shapes))]};
    if (dice_.one_in(10)) v.dtype = static_cast<DType>(roll(1, rp::dtype_count - 1));
    v.leaf = gradients_ && rp::is_floating(v.dtype) && !dice_.one_in(3);
    return v;
  }

  void image(Program& p) {
    p.inputs[0] = {.shape = 7, .source = dice_.one_in(2) ? Source::fresh : Source::same};
    p.variables[0] = {.shape = 8, .leaf = gradients_};
    p.dims[0] = std::min(p.dims[0], 8);
  }

  // A weight that is large enough to be packed, and is changed now and then, but not while it is used.
  void weights(Program& p) {
    p.dims[1] = roll(64, 70);
    p.dims[0] = roll(2, 40);
    p.largest = 40000;
    p.inputs[0] = {.shape = 0};
    p.variables[0] = {.shape = 3, .leaf = false};
  }

  void use_weights(Program& p) {
    Statement product{.action = action_named("matmul"), .b = registers, .d = registers - 1, .n = 1};
    p.functions[0].insert(p.functions[0].begin(), product);
    p.functions[0].push_back(product);  // again, where no other statement replaces the result
    Statement change{.action = action_named("update"), .a = registers, .n = 0, .m = 3, .x = 0.01, .when = When::third};
    p.between.push_back(change);
  }

  // Two arguments of one shape that come to overlap, one of them written between two reads of the other.
  void windows(Program& p) {
    p.inputs.resize(std::max<size_t>(p.inputs.size(), 2));
    const int shape = dice_.one_in(2) ? 0 : 3;
    for (size_t k : {0, 1}) p.inputs[k] = {.shape = shape, .source = Source::window};
    Statement before{.action = action_named("number"), .a = 1, .d = 2, .n = 5, .m = 1, .x = 0.5};
    Statement change{.action = action_named("update"), .a = 0, .n = 2, .m = 3, .x = -0.75};
    Statement after{.action = action_named("binary"), .a = 1, .b = 2, .d = registers - 2, .n = 0};
    Block& body = p.functions[0];
    body.insert(body.begin(), {before, change, after});
  }

  int choose_action(bool blocks) {
    auto weight = [&](size_t i) {
      const Action& a = actions()[i];
      const bool gradient = i + gradient_actions().size() >= actions().size();
      if ((a.block && !blocks) || (gradient && !gradients_)) return 0;
      if (wild_ == 0 && (a.name == "if_value" || a.name == "while_value" || a.name == "eagerly")) return 0;
      return a.weight;
    };
    int64_t total = 0;
    for (size_t i = 0; i < actions().size(); ++i) total += weight(i);
    int64_t at = dice_.below(total);
    for (size_t i = 0;; ++i)
      if ((at -= weight(i)) < 0) return static_cast<int>(i);
  }

  Statement statement(int depth) {
    Statement s{.action = choose_action(depth < 2)};
    const Action& action = actions()[static_cast<size_t>(s.action)];
    s.a = operand(), s.b = operand(), s.c = operand();
    s.d = dice_.one_in(4) ? roll(registers - 2, registers - 1) : roll(0, registers - 1);
    s.n = roll(0, 839), s.m = roll(0, 63);  // 839: remainders by small numbers are all likely
    s.x = roll(-8, 12) / 8.0;
    if (dice_.one_in(4))
      s.drift = Drift::linear;
    else if (dice_.one_in(12))
      s.drift = dice_.one_in(3) ? Drift::special : Drift::read;
    if (wild_ && dice_.one_in(wild_)) s.when = static_cast<When>(roll(1, 6));
    if (action.name == "raise" || action.name == "misuse") s.when = dice_.one_in(2) ? When::only : When::third;
    if ((action.name == "keep" || action.name == "handle") && dice_.one_in(2)) s.when = static_cast<When>(roll(1, 5));
    if (action.name == "seed" && s.n % 4 == 0) s.when = When::third;
    s.at = roll(1, 9);
    if (action.block) s.body = block(roll(1, 4), depth + 1);
    return s;
  }

  int operand() { return dice_.one_in(3) ? registers + roll(0, variables_ - 1) : roll(0, registers + variables_ - 1); }

  // Between the calls mostly writes, and not every time.
  Block between(int length) {
    Block list;
    while (static_cast<int>(list.size()) < length) {
      Statement s = statement(1);
      const std::string_view name = actions()[static_cast<size_t>(s.action)].name;
      constexpr std::string_view wanted[] = {"update",     "overwrite", "shift",  "average",
                                             "host_write", "store",     "descend"};
      if (std::find(std::begin(wanted), std::end(wanted), name) == std::end(wanted) && !dice_.one_in(20)) continue;
      if (dice_.one_in(2)) s.when = static_cast<When>(roll(1, 5));
      list.push_back(s);
    }
    return list;
  }

  Block block(int length, int depth) {
    Block list;
    for (int i = 0; i < length; ++i) list.push_back(statement(depth));
    return list;
  }

  Dice dice_;
  bool gradients_;
  int wild_;  // one statement in so many does not run in every iteration
  int variables_ = 0;
};

// ---- as text ----

void write(std::string& text, const Block& block, int depth) {
  for (const Statement& s : block) {
    text += std::string(static_cast<size_t>(2 * depth), ' ');
    text += fmt::format("{} {} {} {} {} {} {} {} {} {} {}", actions()[static_cast<size_t>(s.action)].name, s.a, s.b,
                        s.c, s.d, s.n, s.m, s.x, static_cast<int>(s.drift), static_cast<int>(s.when), s.at);
    text += s.body.empty() ? "\n" : " {\n";
    write(text, s.body, depth + 1);
    if (!s.body.empty()) text += std::string(static_cast<size_t>(2 * depth), ' ') + "}\n";
  }
}

Block read_block(std::istream& in) {
  Block block;
  for (std::string word; in >> word && word != "}";) {
    if (word == "{") {
      block.back().body = read_block(in);
      continue;
    }
    Statement s{.action = action_named(word)};
    int drift = 0, when = 0;
    in >> s.a >> s.b >> s.c >> s.d >> s.n >> s.m >> s.x >> drift >> when >> s.at;
    s.drift = static_cast<Drift>(drift);
    s.when = static_cast<When>(when);
    block.push_back(s);
  }
  return block;
}

}  // namespace

Program generate(uint64_t seed) { return Generator(seed).program(seed); }

int statement_count(const Block& block) {
  return std::accumulate(block.begin(), block.end(), 0,
                         [](int n, const Statement& s) { return n + 1 + statement_count(s.body); });
}

std::string to_text(const Program& p) {
  std::string text =
      fmt::format("program {} {} {} {} {} {} {} {} {} {} {}\n", p.seed, p.iterations, p.dims[0], p.dims[1], p.dims[2],
                  p.dims[3], p.largest, p.tail, p.aliased, int{p.errors_escape}, p.max_pending);
  for (const Input& in : p.inputs)
    text += fmt::format("input {} {} {}\n", in.shape, static_cast<int>(in.dtype), static_cast<int>(in.source));
  for (const Variable& v : p.variables)
    text += fmt::format("variable {} {} {}\n", v.shape, static_cast<int>(v.dtype), int{v.leaf});
  for (const Block& f : p.functions) text += "function {\n", write(text, f, 1), text += "}\n";
  text += "between {\n";
  write(text, p.between, 1);
  return text + "}\n";
}

Program parse(const std::string& text) {
  Program p;
  std::istringstream in(text);
  int first = 0, second = 0, third = 0;
  for (std::string word; in >> word;) {
    if (word == "program") {
      int escape = 0;
      in >> p.seed >> p.iterations >> p.dims[0] >> p.dims[1] >> p.dims[2] >> p.dims[3] >> p.largest >> p.tail >>
          p.aliased >> escape >> p.max_pending;
      p.errors_escape = escape != 0;
    } else if (word == "input") {
      in >> first >> second >> third;
      p.inputs.push_back({first, static_cast<DType>(second), static_cast<Source>(third)});
    } else if (word == "variable") {
      in >> first >> second >> third;
      p.variables.push_back({first, static_cast<DType>(second), third != 0});
    } else if (word == "function") {
      in >> word;
      p.functions.push_back(read_block(in));
    } else if (word == "between") {
      in >> word;
      p.between = read_block(in);
    } else {
      throw std::runtime_error("a program has no " + word);
    }
  }
  if (p.functions.empty() || p.iterations < 1) throw std::runtime_error("a program needs a function");
  return p;
}

}  // namespace fuzz
