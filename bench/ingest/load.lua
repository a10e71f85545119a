-- One script for every load. What to send stands in the file that LOAD names: one line per kind of request,
--
--     weight TAB kind TAB argument…
--
--   file      a list of whole requests' heads, one per line ("GET /path HTTP/1.1|Header: value|…"), taken in turn
--   body      a head (as above), a file with the body, and the offset at which 16 digits of the body are replaced: every body is another
--
-- "@@" in a head is replaced by the same digits, so that every address can be another.

local thread_count = 0

function setup(thread)
   thread:set("number", thread_count)
   thread_count = thread_count + 1
end

local function read_all(path)
   local file = assert(io.open(path, "rb"))
   local text = file:read("*a")
   file:close()
   return text
end

local function fields(line)
   local found = {}
   for field in (line .. "\t"):gmatch("(.-)\t") do found[#found + 1] = field end
   return found
end

-- Lines of "A|B|C" become a request's head.
local function head_of(text)
   return (text:gsub("|", "\r\n")) .. "\r\n\r\n"
end

local kinds, turns, turn, counter = {}, {}, 0, 0

local function listed(path)
   local heads, next_head = {}, 0
   for line in io.lines(path) do heads[#heads + 1] = head_of(line) end
   -- Threads begin at different places.
   next_head = math.floor(number * #heads / 2)
   return function()
      next_head = next_head % #heads + 1
      return heads[next_head]
   end
end

local function bodied(head, path, offset)
   local body = read_all(path)
   local before, after = body:sub(1, offset), body:sub(offset + 17)
   local head_before, head_after = head_of(head):match("^(.-)@@(.*)$")
   local whole = head_of(head)
   return function()
      counter = counter + 1
      local digits = string.format("%02d%014d", number, counter + start)
      if head_before then return head_before .. digits .. head_after .. before .. digits .. after end
      return whole .. before .. digits .. after
   end
end

function init(arguments)
   start = tonumber(arguments[2])
   for line in io.lines(arguments[1]) do
      local field = fields(line)
      local kind = field[2] == "file" and listed(field[3]) or bodied(field[3], field[4], tonumber(field[5]))
      for _ = 1, tonumber(field[1]) do turns[#turns + 1] = kind end
   end
   -- Threads take kinds in turn, each from another place.
   turn = number * math.floor(#turns / 2)
end

function request()
   turn = turn % #turns + 1
   return turns[turn]()
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format("RESULT %d %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
      latency:percentile(99), errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
