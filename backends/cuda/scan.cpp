#include "reprise/backends/cuda/scan.h"

#include "reprise/backends/cuda/device.h"
#include "reprise/backends/cuda/launches.h"
#include "reprise/backends/cuda/memory.h"
#include "reprise/backends/cuda/module.h"
#include "reprise/backends/cuda/region_kernels.h"
#include "reprise/backends/cuda/scan_text.h"
#include "reprise/backends/cuda/stream.h"
#include "reprise/core/switches.h"

namespace rp::cuda {
namespace {

/// Words where the blocks of a slice meet. A kernel leaves them ready for the next, so they are shared: each takes the
/// next ones, that kernels which run side by side have their own.
class MeetingWords {
 public:
  MeetingWords() : data_(allocate_bytes(bytes)) {
    const std::vector<std::byte> zeros(bytes);
    copy(data_, zeros.data(), bytes, Direction::to_device);
  }
  ~MeetingWords() { release_bytes(data_, bytes); }
  MeetingWords(const MeetingWords&) = delete;

  std::byte* at(size_t first) const { return data_ + first * apart; }
  static size_t take(size_t count) {
    static std::atomic<size_t> next = 0;
    return next.fetch_add(count) % (words - most);
  }

  static constexpr size_t words = 4096, most = 1024, apart = 128, bytes = words * apart;

 private:
  std::byte* data_;
};

Lazy<MeetingWords> meeting_words;

class PersistentScan final : public RegionKernel {
 public:
  PersistentScan(const ScanBody& body, const ScanChoice& choice, size_t operands, const std::string& text,
                 std::string no_tensor)
      : steps_(body.attrs.length),
        parameters_(static_cast<size_t>(body.graph().parameters)),
        operands_(operands),
        choice_(choice),
        meetings_(meetings_of(body)),
        handed_(scan_memory(body, choice).handed),
        first_word_(MeetingWords::take(handed_ ? static_cast<size_t>(choice.slices) : 0)),
        no_tensor_(std::move(no_tensor)),
        function_(function_of(text)) {
    if (handed_) meeting_words.get();  // not while launches are recorded
    how_.blocks = static_cast<uint32_t>(choice.blocks * choice.slices);
    how_.threads = static_cast<uint32_t>(choice.threads);
    how_.shared_bytes = choice.shared_bytes;
    how_.cooperative = handed_ > 0;
    if (choice.meeting == ScanMeeting::cluster) how_.cluster = static_cast<uint32_t>(choice.blocks);
  }

  void run(const RegionCall& call) const override {
    ArgsBytes args;
    for (size_t k = 0; k < operands_; ++k) args.add(call.pointers[k]);
    if (handed_) {
      args.add(meeting_words.get().at(first_word_));
      args.add(call.scratch);
    }
    args.add(steps_);
    set_scalars(args, args.reserve_scalars(parameters_), {call.scalars, parameters_});
    launch(function_, how_, args.bytes());
  }

  size_t scratch_bytes() const override { return handed_; }

  // Parts of a device may have too few multiprocessors for a cluster.
  bool fits() const {
    if (how_.cluster == 1) return true;
    function_.allow(how_);
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {how_.cluster, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = {how_.blocks, 1, 1};
    config.blockDim = {how_.threads, 1, 1};
    config.dynamicSmemBytes = how_.shared_bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int clusters = 0;
    runtime().cudaOccupancyMaxActiveClusters(&clusters, function_.handle(), &config);
    return clusters > 0;
  }

  std::string form() const override {
    constexpr std::string_view names[] = {"", "in a block", "in a cluster", "in the grid"};
    std::string text = fmt::format("all {} steps, {} blocks of {} threads", steps_, how_.blocks, how_.threads);
    if (choice_.blocks > 1) text += fmt::format(", {} for {} rows", choice_.blocks, choice_.rows);
    if (meetings_)
      text += fmt::format(", {} barrier{} {} a step", meetings_, meetings_ > 1 ? "s" : "",
                          names[static_cast<size_t>(choice_.meeting)]);
    if (choice_.split) text += ", products on tensor cores";
    if (choice_.split > 1) text += fmt::format(", {} warps for a sum", choice_.split);
    if (!no_tensor_.empty()) text += ", not on tensor cores: " + no_tensor_;
    return text;
  }

 private:
  int64_t steps_;
  size_t parameters_, operands_;
  ScanChoice choice_;
  int meetings_;
  size_t handed_;
  size_t first_word_;
  std::string no_tensor_;
  const Function& function_;
  Launch how_;
};

}  // namespace

std::unique_ptr<RegionKernel> scan_kernel(const ScanBody& body, const ScanChoice& choice, size_t operands,
                                          const std::string& text, std::string no_tensor) {
  return std::make_unique<PersistentScan>(body, choice, operands, text, std::move(no_tensor));
}

ScanDevice scan_device() {
  const cudaDeviceProp& p = device().properties;
  return {p.multiProcessorCount, static_cast<int64_t>(p.sharedMemPerBlockOptin), p.major >= 9 ? 8 : 1, p.major >= 8};
}

namespace {

struct Spread {
  ScanBody body;
  ScanChoice choice;
};

std::optional<Spread> spread(const Region& region, const ScanDevice& device, bool tensor, std::string* why) {
  std::optional<ScanBody> body = scan_body(region, tensor, why);
  if (!body) return {};
  const std::optional<ScanChoice> choice = choose_scan(*body, device, why);
  if (!choice) return {};
  return Spread{std::move(*body), *choice};
}

// The faster of both forms; if that is not the one on tensor cores, `no_tensor` says why.
std::optional<Spread> fastest(const Region& region, const ScanDevice& device, std::string* why,
                              std::string* no_tensor) {
  std::optional<Spread> plain = spread(region, device, false, why);
  if (disabled("tensor")) return plain;
  std::optional<Spread> tensor = spread(region, device, true, no_tensor);
  if (!tensor) {
    if (!plain) *why += "; not on tensor cores: " + *no_tensor;
    return plain;
  }
  if (!plain || tensor->choice.step_ns <= plain->choice.step_ns) return tensor;
  *no_tensor = fmt::format("a step would take about {:.1f} us, and {:.1f} us without", tensor->choice.step_ns / 1000,
                           plain->choice.step_ns / 1000);
  return plain;
}

}  // namespace

std::unique_ptr<RegionKernel> compile_scan(const Region& region, std::string* why) {
  const size_t operands = region.operands.size();
  ScanDevice device = scan_device();
  std::string no_tensor;
  while (const std::optional<Spread> best = fastest(region, device, why, &no_tensor)) {
    const std::string text = scan_text(best->body, best->choice, operands);
    auto kernel = std::make_unique<PersistentScan>(best->body, best->choice, operands, text, no_tensor);
    if (kernel->fits()) return kernel;
    device.cluster = 1;
    no_tensor.clear();
  }
  return nullptr;
}

}  // namespace rp::cuda
