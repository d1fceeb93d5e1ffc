#pragma once
// What the samples share: their options, and a file of losses to compare two runs by.
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>

#include "reprise/reprise.h"

namespace samples {

/// A sample's options; the values it passes to `run` are the defaults. Those left empty or 0 are not offered.
struct Options {
  std::string mode = "graph";  ///< eager, graph or verify
  std::string device = "cpu";  ///< cpu or cuda
  uint64_t seed = 1;
  int epochs = 0;
  int steps = 0;
  int batch = 0;
  std::string format = "";  ///< nchw or nhwc
  std::string data = "";    ///< where the data lie
  std::string losses = "";  ///< a file for the bits of every loss; may be empty
  std::string report = "";  ///< a file for the captured step's report; may be empty
};

/// Reads the command line over `defaults`, sets mode and seed and calls `sample`. Returns the exit status; errors are
/// printed to stderr.
int run(int argc, char** argv, const std::string& about, Options defaults,
        const std::function<void(const Options&)>& sample);

/// Writes each number it is given as the hexadecimal bits of its f32, one a line. Two runs are equal if their files
/// are.
class LossLog {
 public:
  /// Does nothing if the path is empty. Throws if the file cannot be written.
  explicit LossLog(const std::string& path);
  ~LossLog();
  LossLog(const LossLog&) = delete;
  void add(const rp::Tensor& loss);

 private:
  std::FILE* file_ = nullptr;
};

/// Trains for `options.steps` batches of pieces of text, `length` characters each, and prints the bits per character
/// now and then. `step` is given the characters and those that follow them, both i32 [batch, length], and returns the
/// loss.
void train_on_text(const Options& options, int64_t length,
                   const std::function<rp::Tensor(const rp::Tensor& text, const rp::Tensor& next)>& step);

/// Continues a text by `count` characters, each drawn from the distribution that `read` predicts. It is given one
/// character after the other, i32 [1], and returns the logits of the next, [1, characters].
std::string write(std::string text, int count, const std::function<rp::Tensor(const rp::Tensor&)>& read);

}  // namespace samples
