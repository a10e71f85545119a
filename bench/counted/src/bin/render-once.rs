//! Makes one rendering without the service: `render-once SOURCE TRANSFORM TARGET`, the transform in its canonical text, as in
//! `inside-256x256_jpeg`. What `bench/instructions` counts.

use std::error::Error;

use imagewell_imaging::Limits;
use imagewell_imaging::render::render;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, transform, target] = arguments.as_slice() else { return Err("render-once SOURCE TRANSFORM TARGET".into()) };
    let rendering = render(&std::fs::read(source)?, &transform.parse()?, &Limits::default())?;
    std::fs::write(target, rendering)?;
    Ok(())
}
