//! What every target does: everything that a worker would do with hostile bytes of one format.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use imagewell_imaging::look::look;
use imagewell_imaging::render::render;
use imagewell_imaging::transform::{Fit, Outputs, Transform};
use imagewell_imaging::svg::{is_svg, rasterise};
use imagewell_imaging::{Format, Limits};

/// Small enough that a second sees many pictures.
const LIMITS: Limits = Limits {
    pixels_max: 1_000_000,
    side_px_max: 4_000,
    frames_max: 20,
    frame_pixels_max: 4_000_000,
    output_pixels_max: 1_000_000,
    output_frame_pixels_max: 1_000_000,
    metadata_bytes_max: 4_000_000,
    heic: true,
};

/// Decodes bytes that say they are of this format: as a still picture to a fraction of its size, frame by frame, and from afar. It may
/// refuse them; it may not hang, read what isn't there or take too much memory.
pub fn decode(format: Format, bytes: &[u8]) {
    if !Format::sniff(bytes).is_ok_and(|found| found == format) {
        return;
    }
    let still = Transform { outputs: Outputs::PNG, ..Transform::of(Fit::Inside(16, 16)) };
    as_a_worker(|| drop(render(bytes, &still, &LIMITS)));
    as_a_worker(|| drop(render(bytes, &Transform { animate: true, outputs: Outputs::WEBP, ..still }, &LIMITS)));
    as_a_worker(|| drop(look(bytes, &LIMITS)));
}

/// Draws a document that begins as SVG does. See [`decode`].
pub fn draw(bytes: &[u8]) {
    if is_svg(bytes) {
        as_a_worker(|| drop(rasterise(bytes, &LIMITS)));
    }
}

/// A decoder of others that panics has met a picture that it can't read, and a worker says so. A panic in our own code is a finding.
fn as_a_worker(work: impl FnOnce()) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        // libFuzzer's, which ends the process.
        let found = take_hook();
        set_hook(Box::new(move |panic| {
            if panic.location().is_none_or(|place| place.file().contains("crates/imaging/")) {
                found(panic);
            }
        }));
    });
    let _ = catch_unwind(AssertUnwindSafe(work));
}
