#include "reprise/backends/cuda/table.h"

#include <dlfcn.h>

#include <filesystem>

#include "reprise/core/switches.h"

namespace rp::cuda {
namespace {

/// Libraries stay open: tensors may outlive every static object.
void* open_library(const std::string& soname, std::string& reason) {
  for (const std::string& folder : library_folders()) {
    const std::string path = folder.empty() ? soname : folder + "/" + soname;
    if (void* const library = dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL)) return library;
    const char* const text = dlerror();
    std::error_code none;
    if (text && !folder.empty() && std::filesystem::exists(path, none)) reason = text;
  }
  return nullptr;
}

std::string places() {
  std::string text;
  for (const std::string& folder : library_folders()) {
    if (!text.empty()) text += ", ";
    text += folder.empty() ? "the loader's path" : folder;
  }
  return text;
}

}  // namespace

Symbol::Symbol(Table& table, const char* name) : name_(name), table_(table) { table.symbols_.push_back(this); }

void Symbol::fail_missing() const {
  fail("{}: expected {} to have it; a newer version of that library does", name_, table_.soname());
}

std::vector<std::string> library_folders() {
  std::vector<std::string> folders;
  std::string rest = switch_value("REPRISE_CUDA_PATH");
  while (!rest.empty()) {
    const size_t colon = rest.find(':');
    const std::string folder = rest.substr(0, colon);
    rest = colon == std::string::npos ? "" : rest.substr(colon + 1);
    if (folder.empty()) continue;
    folders.push_back(folder);
    folders.push_back(folder + "/lib64");
  }
  folders.insert(folders.end(), {"", "/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"});
  return folders;
}

uintmax_t Table::file_bytes() const {
  Dl_info found;
  std::error_code none;
  if (symbols_.empty() || !dladdr(symbols_[0]->address_, &found)) return 0;
  const uintmax_t bytes = std::filesystem::file_size(found.dli_fname, none);
  return none ? 0 : bytes;
}

void Table::load() {
  std::string reason;
  void* const library = open_library(soname_, reason);
  if (!library)
    fail("{} was not {}: install it, or name its folder in REPRISE_CUDA_PATH", soname_,
         reason.empty() ? "found in " + places() : "loaded (" + reason + ")");
  for (Symbol* const symbol : symbols_) symbol->address_ = dlsym(library, symbol->name_);
}

}  // namespace rp::cuda
