//! Pictures and bodies.

use std::io::Write as _;

/// The photograph that the README speaks of.
pub fn photograph() -> Vec<u8> {
    testdata("photos/astronaut-512.jpg")
}

pub fn testdata(name: &str) -> Vec<u8> {
    let path = format!("{}/../../testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A whole, grey PNG whose bytes differ by `salt`.
pub fn png(width: u32, height: u32, salt: u64) -> Vec<u8> {
    let mut rows = Vec::new();
    for y in 0..height {
        rows.push(0);
        rows.extend((0..width).map(|x| (u64::from(x + y) * 3 + salt) as u8));
    }
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(&rows).expect("compresses");
    let note = format!("Comment\0{salt}");
    png_of(width, height, &zlib.finish().expect("compresses"), note.as_bytes())
}

/// A PNG that claims a size and has next to no data.
pub fn png_claiming(width: u32, height: u32) -> Vec<u8> {
    png_of(width, height, &[0x78, 0x01, 0x03, 0, 0, 0, 0, 1], b"Comment\0bomb")
}

/// A whole PNG of exactly this many bytes, filled up with a chunk that nothing reads.
pub fn png_of_bytes(total: usize, salt: u64) -> Vec<u8> {
    let bytes = png(8, 8, salt);
    let filler = chunk(*b"fiLl", &noise(total - bytes.len() - 12, salt));
    let end = bytes.len() - 12;
    [&bytes[..end], &filler, &bytes[end..]].concat()
}

fn png_of(width: u32, height: u32, data: &[u8], note: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1A\n".to_vec(), chunk(*b"IHDR", &header), chunk(*b"tEXt", note), chunk(*b"IDAT", data), chunk(*b"IEND", b"")]
        .concat()
}

fn chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(&kind);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes()[..], &kind, data, &crc.sum().to_be_bytes()].concat()
}

/// Reproducible noise (xorshift).
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

pub const BOUNDARY: &str = "test-boundary";

/// A name, a file name if it is a file, and its bytes.
pub type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

/// A multipart body in exactly this order.
pub fn multipart(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file_name, bytes) in parts {
        body.extend(format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"").into_bytes());
        if let Some(file_name) = file_name {
            body.extend(format!("; filename=\"{file_name}\"\r\nContent-Type: image/png").into_bytes());
        }
        body.extend(b"\r\n\r\n");
        body.extend(*bytes);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").into_bytes());
    body
}

pub fn multipart_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}
