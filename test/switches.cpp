#include "reprise/core/switches.h"

#include <cstdlib>
#include <string>
#include <utility>

#include "reprise/backends/cpu/isa.h"
#include "reprise/core/error.h"
#include "reprise/test/catch.h"

using Catch::Matchers::Contains;

namespace {

/// Sets an environment variable for a scope and then restores what was there.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name), had_(std::getenv(name)) {
    if (had_) before_ = std::getenv(name);
    setenv(name, value, 1);
  }
  ~Environment() { had_ ? setenv(name_, before_.c_str(), 1) : unsetenv(name_); }
  Environment(const Environment&) = delete;

 private:
  const char* name_;
  bool had_;
  std::string before_;
};

std::string message_of_look() {
  try {
    rp::switch_value("REPRISE_LOG");
  } catch (const rp::Error& e) {
    return e.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("a switch is read from the environment") {
  Environment log("REPRISE_LOG", "1");
  CHECK(rp::switch_value("REPRISE_LOG") == "1");
}

TEST_CASE("every switch has a name with the prefix and a help text") {
  for (const rp::Switch& s : rp::switches()) {
    CHECK(s.name.starts_with("REPRISE_"));
    CHECK(!s.help.empty());
  }
}

TEST_CASE("an unknown REPRISE_ variable is an error that names the nearest switch") {
  {
    Environment typo("REPRISE_THREDS", "2");
    CHECK(contains(message_of_look(), "REPRISE_THREDS"));
    CHECK(contains(message_of_look(), "REPRISE_THREADS?"));
  }
  {
    Environment typo("REPRISE_MOD", "");
    CHECK(contains(message_of_look(), "REPRISE_MODE?"));
  }
  CHECK(message_of_look().empty());
}

TEST_CASE("variables without the prefix are nobody's business") {
  Environment other("REPRISED", "1");
  CHECK(message_of_look().empty());
}

TEST_CASE("an instruction set is one that there is, or an error") {
  const rp::Isa widest = rp::has_isa(rp::Isa::avx512) ? rp::Isa::avx512
                         : rp::has_isa(rp::Isa::avx2) ? rp::Isa::avx2
                                                      : rp::Isa::baseline;
  CHECK(rp::parse_isa("") == widest);
  for (const auto& [name, isa] : {std::pair{"avx2", rp::Isa::avx2}, {"avx512", rp::Isa::avx512}})
    if (rp::has_isa(isa))
      CHECK(rp::parse_isa(name) == isa);
    else
      CHECK_THROWS_WITH(rp::parse_isa(name), Contains(name) && Contains("this processor"));
  for (const char* name : {"avx", "AVX512", "512", "baseline", " "})
    CHECK_THROWS_WITH(rp::parse_isa(name), Contains("expected avx2 or avx512"));
}

TEST_CASE("asking for a switch that does not exist is an error") {
  CHECK_THROWS_AS(rp::switch_value("REPRISE_COLOUR"), rp::Error);
}
