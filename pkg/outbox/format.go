package outbox

import "fmt"

// Format is how keys and values are written.
type Format string

// The formats, each with the converter of Kafka Connect that writes it.
const (
	FormatRaw        Format = "raw"         // text as it is, and bytea as bytes: StringConverter
	FormatJSON       Format = "json"        // JSON: JsonConverter without schemas
	FormatJSONSchema Format = "json-schema" // JSON with its schema beside it: JsonConverter
	FormatBinary     Format = "binary"      // bytea alone: Debezium's BinaryDataConverter
)

func (f Format) isJSON() bool { return f == FormatJSON || f == FormatJSONSchema }

func (f Format) form() form {
	if f.isJSON() {
		return jsonForm
	}
	return rawForm
}

func (f Format) check(key string) error {
	switch f {
	case FormatRaw, FormatJSON, FormatJSONSchema, FormatBinary:
		return nil
	}
	return problem(key, "write raw, json, json-schema or binary", "%w", fmt.Errorf("%q is no format", string(f)))
}
