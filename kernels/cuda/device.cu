#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <mutex>
#include <set>
#include <utility>

#include "kernels/cuda/device.h"

namespace quash::cuda {
namespace {

const char* Text(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // so that later launches do not report it again
  return cudaGetErrorString(error);
}

constexpr int kLeastMajor = 8;

// Whether the process has a context on a device. Only the driver can say so without
// making one.
bool IsUsed(int device) {
  using GetState = CUresult (*)(CUdevice, unsigned*, int*);
  static const GetState get_state = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaGetDriverEntryPointByVersion("cuDevicePrimaryCtxGetState", &found, 12000,
                                     cudaEnableDefault, &result);
    return reinterpret_cast<GetState>(found);
  }();
  unsigned flags = 0;
  int active = 0;
  return get_state != nullptr && get_state(device, &flags, &active) == CUDA_SUCCESS && active != 0;
}

}  // namespace

bool HasCuda() { return true; }

int DeviceCount() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  int usable = 0;
  for (; usable < count; ++usable) {
    int major = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, usable) != cudaSuccess ||
        major < kLeastMajor) {
      break;
    }
  }
  return usable;
}

const char* UseDevice(int device) { return Text(cudaSetDevice(device)); }

bool SharePeers(std::span<const int> devices) {
  static std::mutex mutex;
  static std::set<std::pair<int, int>> shared;  // asking again would be an error of the driver's
  const std::lock_guard lock(mutex);
  for (int from : devices) {
    for (int to : devices) {
      if (from == to || shared.contains({from, to})) continue;
      int possible = 0;
      if (cudaDeviceCanAccessPeer(&possible, from, to) != cudaSuccess) cudaGetLastError();
      if (possible == 0 || UseDevice(from) != nullptr) return false;
      const cudaError_t error = cudaDeviceEnablePeerAccess(to, 0);
      if (error != cudaSuccess) cudaGetLastError();
      if (error != cudaSuccess && error != cudaErrorPeerAccessAlreadyEnabled) return false;
      shared.insert({from, to});
    }
  }
  return true;
}

DeviceScope::DeviceScope() {
  if (cudaGetDevice(&device_) != cudaSuccess || !IsUsed(device_)) {
    cudaGetLastError();
    device_ = -1;
  }
}

DeviceScope::~DeviceScope() {
  int device = -1;
  if (device_ >= 0 && cudaGetDevice(&device) == cudaSuccess && device != device_) {
    UseDevice(device_);
  }
}

const char* DeviceMemory(size_t* free_bytes, size_t* total_bytes) {
  return Text(cudaMemGetInfo(free_bytes, total_bytes));
}

const char* DeviceName(int device, char* name, size_t size) {
  cudaDeviceProp properties;
  const char* error = Text(cudaGetDeviceProperties(&properties, device));
  if (error == nullptr) std::snprintf(name, size, "%s", properties.name);
  return error;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (place_ == Place::kDevice) {
    cudaFree(data_);
  } else {
    cudaFreeHost(data_);
  }
}

const char* Buffer::Reserve(size_t bytes, Place place) {
  if (bytes <= bytes_ && place == place_) return nullptr;
  *this = Buffer();
  place_ = place;
  const char* error =
      Text(place == Place::kDevice ? cudaMalloc(&data_, bytes) : cudaMallocHost(&data_, bytes));
  if (error == nullptr) {
    bytes_ = bytes;
  } else {
    data_ = nullptr;
  }
  return error;
}

Event::~Event() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}

const char* Event::Open() {
  if (event_ != nullptr) return nullptr;
  return Text(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
}

Stream::~Stream() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

const char* Stream::Open() {
  if (stream_ != nullptr) return nullptr;
  return Text(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

const char* Stream::Upload(const void* from, size_t bytes, void* to) {
  return Text(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_));
}

const char* Stream::Download(const void* from, size_t bytes, void* to) {
  return Text(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_));
}

const char* Stream::Zero(void* data, size_t bytes) {
  return Text(cudaMemsetAsync(data, 0, bytes, stream_));
}

const char* Stream::Record(const Event& event) {
  return Text(cudaEventRecord(event.get(), stream_));
}

const char* Stream::WaitFor(const Event& event) {
  return Text(cudaStreamWaitEvent(stream_, event.get()));
}

const char* Stream::Wait() { return Text(cudaStreamSynchronize(stream_)); }

}  // namespace quash::cuda
