//! Images as base64 text, for clients that have no files: in JSON, in a form, or in a multipart part.
//!
//! The text is spooled, then read twice by blocking code that never holds more than a buffer of it: once for the parameters,
//! which may stand behind the image, once to decode.

use std::io::{self, BufRead, BufReader, Read};

use axum::Json;
use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use base64::read::DecoderReader;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use imagewell_core::Error;
use imagewell_core::model::{Actor, Namespace};
use imagewell_core::spool::{Content, Spooled};
use imagewell_core::upload::{self, Accept, Place, Target};
use struson::reader::{JsonReader as _, JsonStreamReader, ValueType};
use tokio::sync::mpsc;

use super::caller::Caller;
use super::error::{Refusal, Result};
use super::parameters::{BODY_BYTES_MAX, BODY_COUNT_MAX, CSRF_PARAMETER, Parameters, TOO_MANY, is_parameter};
use super::upload::{OVERHEAD_BYTES_MAX, SkippedBytes};
use super::wire::{ErrorEnvelope, Uploaded};
use crate::fields;
use crate::intake::{self, Intake};
use crate::multipart::Multipart;
use crate::serve::Service;

/// With or without padding: both are common.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Bytes decoded at a time.
const CHUNK_BYTES: usize = 48 * 1024;
/// Bytes of the names and values of scalar parameters.
const SCALAR_BYTES_MAX: u64 = 64 * 1024;

/// How the base64 text is wrapped.
#[derive(Clone, Copy)]
enum Wrapping {
    Json,
    Form,
    Bare,
}

/// Upload an image as base64 text
///
/// `image` is base64 without a data-URI prefix; `appKey`, `permission`, `isWebix` and `uuid` stand beside it, in JSON, in an
/// urlencoded form or in multipart text parts before it. A token `_csrf` in the body stands before `image`, within its first 64 KiB.
#[utoipa::path(post, path = "/opsportal/imageBase64", tag = "OpsPortal",
    request_body(content = serde_json::Value, description = "`appKey`, `permission`, `image`"),
    responses((status = 200, body = Uploaded), (status = "4XX", body = ErrorEnvelope), (status = "5XX", body = ErrorEnvelope)))]
pub async fn upload(State(service): State<Service>, request: Request) -> Result<Json<Uploaded>> {
    let (head, body) = request.into_parts();
    let bytes_max = service.settings.opsportal.upload_bytes_max;
    // Percent-encoding makes the text longer than the 4/3 that base64 costs.
    let text_bytes_max = bytes_max.saturating_mul(2).saturating_add(OVERHEAD_BYTES_MAX);
    let is_empty = body.is_end_stream();
    let intake = Intake::new(body, &service.settings, text_bytes_max, bytes_max);
    let mut parameters = Parameters::new(Vec::new(), head.uri.query());
    receive(&service, &head.headers, &mut parameters, &intake, is_empty).await
}

async fn receive(
    service: &Service,
    headers: &HeaderMap,
    parameters: &mut Parameters,
    intake: &Intake,
    is_empty: bool,
) -> Result<Json<Uploaded>> {
    let bytes_max = service.settings.opsportal.upload_bytes_max;
    let caller = Caller::begin(service, headers, parameters).await?;
    if caller.csrf_passed() {
        caller.uploader(parameters)?;
    }
    let bytes_announced = intake::check_declared_length(headers, bytes_max, bytes_max.saturating_add(OVERHEAD_BYTES_MAX))?;
    let found = match fields::media_type(headers).as_str() {
        "application/json" => from_body(service, parameters, intake, &caller, Wrapping::Json, bytes_max).await?,
        "application/x-www-form-urlencoded" => from_body(service, parameters, intake, &caller, Wrapping::Form, bytes_max).await?,
        "multipart/form-data" => from_multipart(service, headers, parameters, intake, &caller, bytes_max).await?,
        "" if is_empty => {
            caller.uploader(parameters)?;
            None
        }
        _ => {
            caller.uploader(parameters)?;
            return Err(Refusal::invalid("send JSON, an urlencoded form or multipart/form-data with the text `image`"));
        }
    };
    let actor = caller.uploader(parameters)?;
    let Some(Found { text, wrapping, place }) = found else {
        let mut missing = parameters.missing();
        missing.push("image");
        return Err(Refusal::missing(&missing));
    };
    let uploading = parameters.for_upload()?;
    let request = upload::Request {
        actor,
        namespace: Namespace::OPSPORTAL_IMAGES,
        target: Target::Application { app_key: uploading.app_key, permission: uploading.permission, id: uploading.uuid },
        bytes_max,
        bytes_announced,
        accept: Accept::Images,
    };
    let admitted = upload::admit_in_place(&service.app, request, place).await?;
    let uuid = admitted.receive(decoded(text.content.clone(), wrapping)).await?.store().await?.called;
    Ok(Json(Uploaded::new(uuid.to_string(), uploading.is_webix)))
}

/// The text of an image, spooled.
struct Found {
    text: Spooled,
    wrapping: Wrapping,
    place: Place,
}

/// Spools the whole body and reads the parameters out of it, when the caller has shown who it is: in the head, or by a token near the
/// body's beginning.
async fn from_body(
    service: &Service,
    parameters: &mut Parameters,
    intake: &Intake,
    caller: &Caller,
    wrapping: Wrapping,
    bytes_max: u64,
) -> Result<Option<Found>> {
    let mut chunks = intake.chunks();
    let mut beginning = BytesMut::new();
    if !caller.csrf_passed() {
        while beginning.len() < BODY_BYTES_MAX {
            let Some(chunk) = chunks.next().await else { break };
            beginning.extend_from_slice(&chunk?);
        }
    }
    let actor = caller.uploader(&token_of(&beginning, wrapping))?;
    let place = upload::take_place(&service.app, &actor).await?;
    let beginning = (!beginning.is_empty()).then(|| Ok(beginning.freeze()));
    let text = spooled(service, &actor, futures_util::stream::iter(beginning).chain(chunks), bytes_max).await?;
    let reader = text.content.reader();
    let read = move || {
        let mut scalars = Scalars::default();
        scalars.read(reader, wrapping).map(|()| scalars)
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(|error| Error::internal("reading a body", &error))?;
    let scalars = read.map_err(Refusal::invalid)?;
    for (name, value) in scalars.values {
        parameters.add_from_body(name, value)?;
    }
    Ok(scalars.has_image.then_some(Found { text, wrapping, place }))
}

/// The token that stands at the beginning of a body, which may end anywhere.
fn token_of(beginning: &[u8], wrapping: Wrapping) -> Parameters {
    let mut scalars = Scalars::default();
    let _cut_off = scalars.read(beginning, wrapping);
    let mut token = Parameters::default();
    for (name, value) in scalars.values {
        if name == CSRF_PARAMETER {
            let _twice = token.add_from_body(name, value);
        }
    }
    token
}

async fn from_multipart(
    service: &Service,
    headers: &HeaderMap,
    parameters: &mut Parameters,
    intake: &Intake,
    caller: &Caller,
    bytes_max: u64,
) -> Result<Option<Found>> {
    let mut multipart = Multipart::new(headers, intake.chunks(), &service.settings)?;
    let mut found = None;
    let mut skipped = SkippedBytes::default();
    while let Some(mut part) = multipart.next().await? {
        if found.is_none() && part.name == "image" {
            let actor = caller.uploader(parameters)?;
            let place = upload::take_place(&service.app, &actor).await?;
            let text = spooled(service, &actor, part.chunks()?, bytes_max).await?;
            found = Some(Found { text, wrapping: Wrapping::Bare, place });
        } else if found.is_none() && is_parameter(&part.name) {
            let name = part.name.clone();
            if let Err(refusal) = parameters.add_from_body(name, part.text().await?) {
                caller.uploader(parameters)?;
                return Err(refusal);
            }
        } else {
            skipped.skip(part, caller, parameters).await?;
        }
    }
    Ok(found)
}

async fn spooled<S>(service: &Service, actor: &Actor, chunks: S, bytes_max: u64) -> Result<Spooled>
where
    S: futures_util::Stream<Item = std::result::Result<Bytes, Error>> + Unpin,
{
    let text_bytes_max = bytes_max.saturating_mul(2).saturating_add(OVERHEAD_BYTES_MAX);
    Ok(upload::spool(&service.app, actor, text_bytes_max, chunks).await?)
}

#[derive(Default)]
struct Scalars {
    values: Vec<(String, String)>,
    has_image: bool,
}

/// JSON without the byte order mark that some editors and libraries put before it.
fn without_mark(reader: impl Read) -> io::Result<impl Read> {
    const MARK: &[u8] = b"\xEF\xBB\xBF";
    let mut reader = BufReader::new(reader);
    if reader.fill_buf()?.starts_with(MARK) {
        reader.consume(MARK.len());
    }
    Ok(reader)
}

/// Base64 as clients write it: line breaks and blanks are dropped, and the URL-safe alphabet (RFC 4648 §5) is read as
/// the standard one.
struct Plain<R>(R);

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.0.read(into)?;
            let mut kept = 0;
            for at in 0..count {
                if !into[at].is_ascii_whitespace() {
                    into[kept] = match into[at] {
                        b'-' => b'+',
                        b'_' => b'/',
                        other => other,
                    };
                    kept += 1;
                }
            }
            if kept > 0 || count == 0 {
                return Ok(kept);
            }
        }
    }
}

type Parsed<T> = std::result::Result<T, &'static str>;

const NOT_JSON: &str = "the body is no JSON object with text, numbers, true and false";
const NOT_FORM: &str = "the form has a name or value that is too long or no UTF-8";

impl Scalars {
    /// Reads a body; where that fails, what stood before is here.
    fn read(&mut self, reader: impl Read, wrapping: Wrapping) -> Parsed<()> {
        match wrapping {
            Wrapping::Json => self.read_json(reader),
            _ => self.read_form(reader),
        }
    }

    fn add(&mut self, name: String, value: String) -> Parsed<()> {
        if self.values.len() == BODY_COUNT_MAX {
            return Err(TOO_MANY);
        }
        self.values.push((name, value));
        Ok(())
    }

    fn read_json(&mut self, reader: impl Read) -> Parsed<()> {
        let mut json = JsonStreamReader::new(without_mark(reader).map_err(|_| NOT_JSON)?);
        json.begin_object().map_err(|_| NOT_JSON)?;
        while json.has_next().map_err(|_| NOT_JSON)? {
            let name = json.next_name_owned().map_err(|_| NOT_JSON)?;
            match (name.as_str(), json.peek().map_err(|_| NOT_JSON)?) {
                ("image", ValueType::String) => {
                    self.has_image = true;
                    json.skip_value().map_err(|_| NOT_JSON)?;
                }
                (_, ValueType::String) if is_parameter(&name) => {
                    let mut text = json.next_string_reader().map_err(|_| NOT_JSON)?;
                    let mut value = String::new();
                    (&mut text).take(SCALAR_BYTES_MAX).read_to_string(&mut value).map_err(|_| NOT_JSON)?;
                    // The reader of the whole panics over a text that was not read to its end.
                    if text.read(&mut [0]).map_err(|_| NOT_JSON)? > 0 {
                        return Err(TOO_MANY);
                    }
                    self.add(name, value)?;
                }
                (_, ValueType::Number) if is_parameter(&name) => {
                    self.add(name, json.next_number_as_string().map_err(|_| NOT_JSON)?)?;
                }
                (_, ValueType::Boolean) if is_parameter(&name) => {
                    self.add(name, json.next_bool().map_err(|_| NOT_JSON)?.to_string())?;
                }
                _ => json.skip_value().map_err(|_| NOT_JSON)?,
            }
        }
        json.end_object().map_err(|_| NOT_JSON)
    }

    fn read_form(&mut self, reader: impl Read) -> Parsed<()> {
        let mut form = BufReader::new(reader);
        while let Some(name) = form_name(&mut form)? {
            let mut value = FormValue { form: &mut form, plus_is_space: true, ended: false };
            self.has_image |= name == "image";
            if !is_parameter(&name) {
                io::copy(&mut value, &mut io::sink()).map_err(|_| NOT_FORM)?;
                continue;
            }
            let mut text = String::new();
            (&mut value).take(SCALAR_BYTES_MAX).read_to_string(&mut text).map_err(|_| NOT_FORM)?;
            if !value.ended && value.read(&mut [0]).map_err(|_| NOT_FORM)? > 0 {
                return Err(NOT_FORM);
            }
            self.add(name, text)?;
        }
        Ok(())
    }
}

/// The next name, or none at the end.
fn form_name(form: &mut impl BufRead) -> Parsed<Option<String>> {
    let mut name = Vec::new();
    form.take(SCALAR_BYTES_MAX).read_until(b'=', &mut name).map_err(|_| NOT_FORM)?;
    match name.pop() {
        None => Ok(None),
        Some(b'=') => {
            let encoded = [name.as_slice(), b"="].concat();
            Ok(form_urlencoded::parse(&encoded).next().map(|(name, _)| name.into_owned()))
        }
        Some(_) => Err(NOT_FORM),
    }
}

/// Decodes one value of an urlencoded form, up to the next `&`.
struct FormValue<'a, R> {
    form: &'a mut R,
    plus_is_space: bool,
    ended: bool,
}

impl<R: BufRead> Read for FormValue<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() && !self.ended {
            let mut byte = [0];
            if self.form.read(&mut byte)? == 0 || byte[0] == b'&' {
                self.ended = true;
                break;
            }
            into[filled] = match byte[0] {
                b'+' if self.plus_is_space => b' ',
                b'%' => {
                    let mut digits = [0; 2];
                    self.form.read_exact(&mut digits)?;
                    let text = std::str::from_utf8(&digits).unwrap_or_default();
                    u8::from_str_radix(text, 16).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?
                }
                plain => plain,
            };
            filled += 1;
        }
        Ok(filled)
    }
}

/// Decodes on a blocking thread and hands the bytes over in chunks.
fn decoded(text: Content, wrapping: Wrapping) -> impl futures_util::Stream<Item = std::result::Result<Bytes, Error>> + Unpin {
    let (sender, mut receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let reader = text.reader();
        let outcome = match wrapping {
            Wrapping::Bare => decode(reader, &sender),
            Wrapping::Form => decode_form(reader, &sender),
            Wrapping::Json => decode_json(reader, &sender),
        };
        if let Err(reason) = outcome {
            let _ = sender.blocking_send(Err(Error::invalid(reason)));
        }
    });
    futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))
}

type Sender = mpsc::Sender<std::result::Result<Bytes, Error>>;

fn decode_json(reader: impl Read, sender: &Sender) -> Parsed<()> {
    let mut json = JsonStreamReader::new(without_mark(reader).map_err(|_| NOT_JSON)?);
    json.begin_object().map_err(|_| NOT_JSON)?;
    while json.has_next().map_err(|_| NOT_JSON)? {
        if json.next_name().map_err(|_| NOT_JSON)? == "image" {
            return decode(json.next_string_reader().map_err(|_| NOT_JSON)?, sender);
        }
        json.skip_value().map_err(|_| NOT_JSON)?;
    }
    Ok(())
}

fn decode_form(reader: impl Read, sender: &Sender) -> Parsed<()> {
    let mut form = BufReader::new(reader);
    while let Some(name) = form_name(&mut form)? {
        // Who does not encode a plus sign means one: base64 has no spaces.
        let mut value = FormValue { form: &mut form, plus_is_space: false, ended: false };
        if name == "image" {
            return decode(value, sender);
        }
        io::copy(&mut value, &mut io::sink()).map_err(|_| NOT_FORM)?;
    }
    Ok(())
}

fn decode(text: impl Read, sender: &Sender) -> Parsed<()> {
    let mut text = BufReader::new(text);
    if text.fill_buf().is_ok_and(|start| start.starts_with(b"data:")) {
        return Err("`image` is a data URI: send only the base64 text behind its comma");
    }
    let mut bytes = DecoderReader::new(Plain(text), &ENGINE);
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let count = bytes.read(&mut chunk).map_err(|_| "`image` is no base64 text")?;
        if count == 0 {
            return Ok(());
        }
        chunk.truncate(count);
        // Nobody listens any more: the upload was refused on the other side.
        if sender.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
}
