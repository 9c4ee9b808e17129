#!/bin/sh
# Makes murmur2.tsv with the Java client of Apache Kafka. Needs Maven and a JDK.
set -eu
cd "$(dirname "$0")"
classpath=$(mktemp)
trap 'rm -f "$classpath"' EXIT
mvn -q -B -f ../kafka/pom.xml dependency:build-classpath -Dmdep.outputFile="$classpath" >&2
java -cp "$(cat "$classpath")" Murmur2.java >murmur2.tsv
