#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| adit_wire::http2::fuzz_http2_headers(data));
