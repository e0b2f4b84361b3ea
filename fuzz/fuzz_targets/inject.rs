#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fam_onnx_fuzz::targets::inject(data));
