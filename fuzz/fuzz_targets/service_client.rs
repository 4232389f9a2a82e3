#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| adit_wire::rpc::fuzz_service_client(data));
