#include "runtime.h"

#include <cstdlib>

namespace {

constexpr size_t kSharedDefault = 48 << 10, kSharedMost = 227 << 10, kSharedAll = 228 << 10;
constexpr int kThreadsMost = 1024;  // of a block; also how many a multiprocessor takes, as if each had 64 registers

cudaError_t last = cudaSuccess;
long launches = 0;
std::mutex mutex;
std::unordered_map<const void*, size_t>& allowed() {
  static std::unordered_map<const void*, size_t> bytes;
  return bytes;
}

int setting(const char* name, int otherwise) {
  const char* text = getenv(name);
  return text && *text ? atoi(text) : otherwise;
}
int multiprocessors() { return setting("FASTLOSS_EMULATOR_SMS", 3); }

cudaError_t check(const void* kernel, const fl_emulator::Launch& l) {
  const uint64_t threads = uint64_t(l.block.x) * l.block.y * l.block.z;
  const uint64_t blocks = uint64_t(l.grid.x) * l.grid.y * l.grid.z;
  if (!threads || threads > kThreadsMost || l.block.z > 64) return cudaErrorInvalidConfiguration;
  if (!blocks || l.grid.x > 2147483647u || l.grid.y > 65535 || l.grid.z > 65535) return cudaErrorInvalidConfiguration;
  const auto found = allowed().find(kernel);
  if (l.shared_bytes > (found == allowed().end() ? kSharedDefault : found->second)) return cudaErrorInvalidValue;
  if (l.cooperative) {
    if (setting("FASTLOSS_EMULATOR_COOPERATIVE", 1) != 1) return cudaErrorCooperativeLaunchTooLarge;
    const int fit = fl_emulator::blocks_per_multiprocessor(static_cast<int>(threads), l.shared_bytes);
    if (blocks > static_cast<uint64_t>(fit) * multiprocessors()) return cudaErrorCooperativeLaunchTooLarge;
  }
  return cudaSuccess;
}

}  // namespace

namespace fl_emulator {

cudaError_t allow_shared(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > kSharedMost) return last = cudaErrorInvalidValue;
  std::lock_guard<std::mutex> lock(mutex);
  allowed()[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}

int blocks_per_multiprocessor(int threads, size_t shared_bytes) {
  const int whole_warps = (threads + 31) / 32 * 32;
  return static_cast<int>(std::min<size_t>(kThreadsMost / whole_warps, kSharedAll / (shared_bytes + (1 << 10))));
}

cudaError_t launch(const void* kernel, const Launch& l) {
  std::lock_guard<std::mutex> lock(mutex);
  cudaError_t error = check(kernel, l);
  if (error == cudaSuccess) {
    ++launches;
    if (!run(l)) error = cudaErrorLaunchFailure;
  }
  if (error != cudaSuccess) last = error;
  return error;
}

}  // namespace fl_emulator

// How many kernels have run; for tests.
extern "C" __attribute__((visibility("default"))) long fastloss_emulator_launches() { return launches; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorCooperativeLaunchTooLarge:
      return "cudaErrorCooperativeLaunchTooLarge";
    default:
      return "another CUDA error";
  }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetLastError() {
  const cudaError_t error = last;
  last = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = kThreadsMost;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = kSharedDefault;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = kSharedMost;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = kSharedAll;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = multiprocessors();
      break;
    case cudaDevAttrL2CacheSize:
      *value = 1 << 20;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = setting("FASTLOSS_EMULATOR_COOPERATIVE", 1) != 0;
      break;
    default:
      return last = cudaErrorInvalidValue;
  }
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t) {
  if (bytes) memset(at, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
