//! SVG as what it shows. A vector can carry scripts, link to anywhere and look different to everybody; pixels can't.
//!
//! No font is at hand in the process where this runs, so text that isn't paths is not drawn; neither are pictures inside the picture,
//! wherever they are.

use image::codecs::png::PngEncoder;
use image::{DynamicImage, RgbaImage};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{ImageHrefResolver, Options, Tree};

use crate::facts::check_size;
use crate::format::SNIFF_BYTES;
use crate::{Error, Format, Limits};

/// Pixels of the longer side: enough for renderings, whatever size the drawing says it has.
const SIDE_PX: f32 = 2048.0;
/// Bytes of the document.
const SOURCE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Whether bytes begin as SVG does.
#[must_use]
pub fn is_svg(head: &[u8]) -> bool {
    let head = &head[..head.len().min(SNIFF_BYTES)];
    let marked = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head).trim_ascii_start();
    if !marked.starts_with(b"<") {
        return false;
    }
    let text = String::from_utf8_lossy(marked).to_ascii_lowercase();
    text.starts_with("<svg") || (text.starts_with("<?xml") && text.contains("<svg")) || text.starts_with("<!doctype svg")
}

/// Draws a document as a PNG with transparency, 2048 pixels along its longer side.
///
/// # Errors
/// [`Error::Svg`] says what is wrong with the document.
pub fn rasterise(source: &[u8], limits: &Limits) -> Result<Vec<u8>, Error> {
    rasterise_to(source, SIDE_PX, limits)
}

/// Draws a document as a PNG with transparency, so many pixels along its longer side.
///
/// # Errors
/// [`Error::Svg`] says what is wrong with the document.
pub fn rasterise_to(source: &[u8], side_px: f32, limits: &Limits) -> Result<Vec<u8>, Error> {
    let failed = |detail: String| Error::Svg { detail };
    if source.len() > SOURCE_BYTES_MAX {
        return Err(failed(format!("it has more than {SOURCE_BYTES_MAX} bytes")));
    }
    // Nothing is fetched, neither from files nor from the document itself.
    let nothing = ImageHrefResolver { resolve_data: Box::new(|_, _, _| None), resolve_string: Box::new(|_, _| None) };
    let options = Options { image_href_resolver: nothing, ..Options::default() };
    let text = std::str::from_utf8(source).map_err(|_| failed("it is not UTF-8".to_owned()))?;
    let tree = Tree::from_str(text, &options).map_err(|error| failed(error.to_string()))?;
    let size = tree.size();
    let scale = side_px / size.width().max(size.height());
    let (width, height) = ((size.width() * scale).round().max(1.0) as u32, (size.height() * scale).round().max(1.0) as u32);
    check_size(Format::Png, width, height, limits)?;
    let mut pixmap = Pixmap::new(width, height).ok_or_else(|| failed("it has no size".to_owned()))?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixmap.as_mut());
    let pixels = pixmap.take_demultiplied();
    let picture = RgbaImage::from_raw(width, height, pixels).ok_or_else(|| failed("it has no pixels".to_owned()))?;
    let mut bytes = Vec::new();
    let encoded = DynamicImage::from(picture).write_with_encoder(PngEncoder::new(&mut bytes));
    encoded.map_err(|error| failed(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: fn() -> Limits = Limits::default;

    fn drawn(svg: &str) -> RgbaImage {
        let bytes = rasterise(svg.as_bytes(), &LIMITS()).expect("draws");
        image::load_from_memory(&bytes).expect("decodes").into_rgba8()
    }

    #[test]
    fn a_drawing_becomes_pixels_with_transparency() {
        let svg = "<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 20 10'>\
            <rect width='10' height='10' fill='#c00'/></svg>";
        assert!(is_svg(svg.as_bytes()));
        let picture = drawn(svg);
        assert_eq!(picture.dimensions(), (2048, 1024));
        assert_eq!((picture.get_pixel(500, 500).0, picture.get_pixel(1500, 500).0[3]), ([0xCC, 0, 0, 255], 0));
    }

    #[test]
    fn nothing_is_fetched_and_nothing_runs() {
        let picture = drawn(
            "<svg xmlns='http://www.w3.org/2000/svg' xmlns:xlink='http://www.w3.org/1999/xlink' width='10' height='10'>\
             <script>while(1){}</script><image width='10' height='10' xlink:href='file:///etc/passwd'/>\
             <image width='10' height='10' href='data:image/png;base64,iVBORw0KGgo='/><foreignObject><p>x</p></foreignObject></svg>",
        );
        assert!(picture.pixels().all(|pixel| pixel.0[3] == 0));
    }

    #[test]
    fn what_is_no_drawing_or_a_bomb_is_refused() {
        let laughs = "<!DOCTYPE svg [<!ENTITY a 'xxxxxxxxxx'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;'>\
            <!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;'><!ENTITY d '&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;'>\
            <!ENTITY e '&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;'><!ENTITY f '&e;&e;&e;&e;&e;&e;&e;&e;&e;&e;'>]>\
            <svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'><desc>&f;&f;&f;&f;&f;&f;</desc></svg>";
        for wrong in ["<svg", "<svg xmlns='http://www.w3.org/2000/svg' width='0' height='5'/>", "<html/>", laughs, "\u{0}"] {
            assert!(matches!(rasterise(wrong.as_bytes(), &LIMITS()), Err(Error::Svg { .. })), "{wrong}");
        }
        let thin = "<svg xmlns='http://www.w3.org/2000/svg' width='1e9' height='1'><rect width='5' height='5'/></svg>";
        assert_eq!(drawn(thin).dimensions(), (2048, 1));
    }
}
