/// Bounds on what an image may claim of itself. Checked from headers, before any pixel is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Width × height of a frame, in pixels.
    pub pixels_max: u64,
    /// The longer side, in pixels.
    pub side_px_max: u32,
    /// Frames of an animation, pages of a TIFF.
    pub frames_max: u32,
    /// Width × height of all frames together, in pixels.
    pub frame_pixels_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pixels_max: 50_000_000, side_px_max: 30_000, frames_max: 300, frame_pixels_max: 500_000_000 }
    }
}
