#include <cuda_runtime.h>

#include <cstdio>

#include "kernels/cuda/device.h"

namespace quash::cuda {
namespace {

const char* Text(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // so that later launches do not report it again
  return cudaGetErrorString(error);
}

constexpr int kLeastMajor = 8;

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

const char* Stream::Wait() { return Text(cudaStreamSynchronize(stream_)); }

}  // namespace quash::cuda
