#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| imagewell_fuzz::decode(imagewell_imaging::Format::Heic, bytes));
