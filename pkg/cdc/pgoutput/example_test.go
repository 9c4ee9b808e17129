package pgoutput_test

import (
	"fmt"
	"log"

	"github.com/walpost/walpost/pkg/cdc/pgoutput"
)

func ExampleDecoder() {
	var d pgoutput.Decoder
	for _, data := range []string{
		"S\x00\x00\x02\xe9\x01",
		"I\x00\x00\x02\xea\x00\x00\x40\x01N\x00\x01t\x00\x00\x00\x05hello",
		"E",
		"A\x00\x00\x02\xe9\x00\x00\x02\xea",
	} {
		m, err := d.Decode([]byte(data))
		if err != nil {
			log.Fatal(err)
		}
		switch m := m.(type) {
		case *pgoutput.Insert:
			fmt.Printf("insert %s, by %d\n", m.Values[0].Data, m.XID)
		case *pgoutput.StreamAbort:
			fmt.Printf("abort %d of %d\n", m.SubXID, m.XID)
		}
	}
	// Output:
	// insert hello, by 746
	// abort 746 of 745
}
