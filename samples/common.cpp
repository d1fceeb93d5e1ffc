#include "reprise/samples/common.h"

#include <CLI/CLI.hpp>
#include <bit>
#include <cerrno>
#include <cstring>
#include <numbers>

#include "reprise/samples/data.h"

namespace samples {
namespace {

void declare(CLI::App& app, Options& o) {
  app.add_option("--mode", o.mode, "eager, graph or verify")
      ->check(CLI::IsMember({"eager", "graph", "verify"}))
      ->capture_default_str();
  app.add_option("--device", o.device, "cpu or cuda")->capture_default_str();
  app.add_option("--seed", o.seed, "of the weights and of the order of the data")->capture_default_str();
  app.add_option("--losses", o.losses, "a file for the bits of every loss");
  app.add_option("--report", o.report, "an HTML file that tells how the captured step ran");
  if (o.epochs)
    app.add_option("--epochs", o.epochs, "passes over the data")->check(CLI::PositiveNumber)->capture_default_str();
  if (o.steps)
    app.add_option("--steps", o.steps, o.epochs ? "steps of training at most" : "steps of training")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
  if (o.batch) app.add_option("--batch", o.batch, "samples a step")->check(CLI::PositiveNumber)->capture_default_str();
  if (!o.format.empty()) {
    app.add_option("--format", o.format, "order of the images' axes")
        ->check(CLI::IsMember({"nchw", "nhwc"}))
        ->capture_default_str();
  }
  if (!o.data.empty()) app.add_option("--data", o.data, "where the data lie")->capture_default_str();
}

}  // namespace

int run(int argc, char** argv, const std::string& about, Options defaults,
        const std::function<void(const Options&)>& sample) {
  CLI::App app(about);
  declare(app, defaults);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e);
  }
  try {
    rp::ModeGuard mode(rp::parse_mode(defaults.mode));
    const rp::DeviceScope on(rp::parse_device(defaults.device));
    rp::manual_seed(defaults.seed);
    sample(defaults);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}

LossLog::LossLog(const std::string& path) {
  if (path.empty()) return;
  file_ = std::fopen(path.c_str(), "w");
  if (!file_) throw std::runtime_error("cannot write " + path + ": " + std::strerror(errno));
}

LossLog::~LossLog() {
  if (file_) std::fclose(file_);
}

void LossLog::add(const rp::Tensor& loss) {
  if (file_) std::fprintf(file_, "%08x\n", std::bit_cast<uint32_t>(loss.item<float>()));
}

void train_on_text(const Options& options, int64_t length,
                   const std::function<rp::Tensor(const rp::Tensor& text, const rp::Tensor& next)>& step) {
  auto loader = text_pieces(options.data, length).shuffle(options.seed).batch(options.batch, true);
  LossLog log(options.losses);
  rp::Progress progress("train", options.steps);
  for (int i = 0; i < options.steps;) {
    for (auto [text, next] : loader) {
      const rp::Tensor loss = step(text, next);
      log.add(loss);
      progress.step();
      if (++i % 50 == 0 || i == options.steps) {
        progress.clear();
        std::printf("step %d: %.3f bits per character\n", i, loss.item<float>() / std::numbers::ln2);
      }
      if (i == options.steps) break;
    }
  }
  progress.clear();
}

std::string write(std::string text, int count, const std::function<rp::Tensor(const rp::Tensor&)>& read) {
  rp::NoGrad no_grad;
  for (size_t i = 0; count > 0; ++i) {
    const rp::Tensor logits = read(rp::tensor({static_cast<int32_t>(static_cast<unsigned char>(text[i]))}));
    if (i + 1 < text.size()) continue;
    const rp::Tensor gumbel = -rp::log(-rp::log(rp::uniform(logits.shape(), 1e-6, 1)));
    text += static_cast<char>(rp::argmax(logits + gumbel).item<int64_t>());
    --count;
  }
  return text;
}

}  // namespace samples
