#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| adit_connector::ingress::fuzz_websocket(data));
