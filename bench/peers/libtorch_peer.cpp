// libtorch as a peer: answers the bench program's questions, a line each. bench/README.md has them.
#include <ATen/Parallel.h>
#include <torch/version.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "reprise/bench/peers/libtorch_work.h"

namespace bench {
namespace {

using Json = nlohmann::json;

std::vector<Digest> digests_of(Tensors results, const Work& work) {
  if (work.state)
    for (const at::Tensor& t : work.state()) results.push_back(t);
  std::vector<Digest> all;
  for (const at::Tensor& t : results) {
    const at::Tensor dense = t.detach().contiguous();
    all.push_back(digest(dense.data_ptr<float>(), dense.numel()));
  }
  return all;
}

class Server {
 public:
  Json answer(const Json& question) {
    if (question.contains("prepare")) return prepare(question);
    if (question.contains("run")) return run(question);
    works_.clear();
    return Json::object();
  }

 private:
  Json prepare(const Json& question) {
    Task task{question.at("spec"), question.at("form"), true};
    Work work = make_work(task);
    Tensors results;
    for (int i = 0; i < question.at("calls").get<int>(); ++i) results = work.call();
    const std::vector<Digest> digests = digests_of(results, work);
    if (task.spec.options.value("timed_otherwise", false)) {
      task.exact = false;
      work = make_work(task);
    }
    works_[question["prepare"]] = work;
    return {{"digests", digests}};
  }

  Json run(const Json& question) {
    const Work& work = works_.at(question["run"]);
    const auto calls = question.at("calls").get<int64_t>();
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < calls; ++i) work.call();
    return {{"ns", std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count()}};
  }

  std::map<std::string, Work> works_;
};

void serve() {
  std::FILE* answers = fdopen(dup(STDOUT_FILENO), "w");
  dup2(STDERR_FILENO, STDOUT_FILENO);  // what libraries print is no answer
  const auto say = [&](const Json& answer) {
    std::fprintf(answers, "%s\n", answer.dump().c_str());
    std::fflush(answers);
  };
  say({{"version", TORCH_VERSION}});
  Server server;
  for (std::string line; std::getline(std::cin, line);) {
    Json answer;
    try {
      answer = server.answer(Json::parse(line));
    } catch (const std::exception& e) {
      const std::string what = e.what();
      answer = {{"error", what.substr(0, what.find('\n'))}};
    }
    say(answer);
  }
}

}  // namespace
}  // namespace bench

int main() {
  at::set_num_threads(std::atoi(std::getenv("OMP_NUM_THREADS")));
  at::set_num_interop_threads(1);
  bench::serve();
}
