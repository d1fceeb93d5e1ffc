#pragma once
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace rp::test {

/// Sets an environment variable for a scope and then restores what was there.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name), had_(std::getenv(name)) {
    if (had_) before_ = std::getenv(name);
    setenv(name, value.c_str(), 1);
  }
  ~Environment() { had_ ? setenv(name_, before_.c_str(), 1) : unsetenv(name_); }
  Environment(const Environment&) = delete;

 private:
  const char* name_;
  bool had_;
  std::string before_;
};

/// A folder of this process, in the system's place for such; empty at first and gone at the end.
class FreshFolder {
 public:
  explicit FreshFolder(const std::string& name)
      : path_(std::filesystem::temp_directory_path() / ("reprise-" + name + "-" + std::to_string(getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~FreshFolder() {
    std::error_code none;
    std::filesystem::remove_all(path_, none);
  }
  FreshFolder(const FreshFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace rp::test
