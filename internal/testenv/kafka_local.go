package testenv

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// kafkaFiles are the project that names Kafka's artifacts, and the settings of
// its log.
//
//go:embed kafka
var kafkaFiles embed.FS

// distribution is an Apache Kafka of this machine, prepared in the cache.
type distribution struct {
	java      string
	dir       string // of the cache
	archiving bool   // the broker writes archiveFile when it ends
}

// The files of a distribution.
const (
	classpathFile = "classpath"
	archiveFile   = "classes.jsa" // what the JVM would else load and verify at each start
	formattedDir  = "formatted"   // an empty data directory
	projectFile   = "kafka/pom.xml"
	logConfigFile = "kafka/log4j2.properties"
)

// localKafka starts Apache Kafka with this machine's Java.
func localKafka(ctx context.Context, cfg KafkaConfig) (*KafkaServer, error) {
	d, err := prepareKafka(ctx)
	if err != nil {
		return nil, err
	}
	return d.start(ctx, cfg)
}

// prepareKafka fetches Apache Kafka from its Maven artifacts, unless the cache
// has it.
func prepareKafka(ctx context.Context) (distribution, error) {
	java, maven, err := javaAndMaven()
	if err != nil {
		return distribution{}, err
	}
	dir, err := cached(ctx, "kafka-"+KafkaVersion, func(ctx context.Context, dir string) error {
		return fillKafka(ctx, distribution{java: java, dir: dir}, maven)
	})
	if err != nil {
		return distribution{}, err
	}
	d := distribution{java: java, dir: dir}
	if err := d.check(); err != nil {
		return distribution{}, fmt.Errorf("%w; remove %s to fetch it again", err, dir)
	}
	return d, nil
}

func javaAndMaven() (java, maven string, err error) {
	java, jerr := exec.LookPath("java")
	maven, merr := exec.LookPath("mvn")
	if err := errors.Join(jerr, merr); err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return java, maven, nil
}

// fillKafka prepares what every start would otherwise do again.
func fillKafka(ctx context.Context, d distribution, maven string) error {
	if err := os.CopyFS(d.dir, kafkaFiles); err != nil {
		return err
	}
	err := d.run(ctx, maven, "-q", "-B", "-f", d.path(projectFile),
		"dependency:build-classpath", "-Dmdep.outputFile="+d.path(classpathFile))
	if err != nil {
		return err
	}
	if err := d.format(ctx); err != nil {
		return err
	}
	return d.archiveClasses(ctx)
}

func (d distribution) path(name string) string { return filepath.Join(d.dir, name) }

// check returns an error if an artifact has been deleted since.
func (d distribution) check() error {
	classpath, err := os.ReadFile(d.path(classpathFile))
	if err != nil {
		return err
	}
	for path := range strings.SplitSeq(strings.TrimSpace(string(classpath)), string(os.PathListSeparator)) {
		if _, err := os.Stat(path); err != nil {
			return err
		}
	}
	return nil
}

// format makes an empty data directory for all brokers to begin with. The
// voters are named in the settings, and not when formatting, or it would be good
// for one port only.
func (d distribution) format(ctx context.Context) error {
	settings := d.path("format.properties")
	s := &KafkaServer{ports: map[string]int{plainListener: firstPort, controllerListener: firstPort + 1}}
	if err := writeProperties(settings, s.properties(KafkaConfig{}, "127.0.0.1", d.path(formattedDir))); err != nil {
		return err
	}
	const clusterID = "d2FscG9zdC10ZXN0LWV2ZQ" // 16 bytes in base64
	args, err := d.javaArgs(KafkaConfig{Heap: "128m"}, d.path("format.log"))
	if err != nil {
		return err
	}
	args = append(args, "kafka.tools.StorageTool", "format", "--cluster-id", clusterID, "--config", settings)
	return d.run(ctx, d.java, args...)
}

// archiveClasses runs a broker once to learn which classes it loads. The
// archive that the JVM then writes makes later starts several times faster.
func (d distribution) archiveClasses(ctx context.Context) error {
	d.archiving = true
	s, err := d.start(ctx, KafkaConfig{Heap: "384m", StartTimeout: closeTimeout * 4})
	if err != nil {
		return err
	}
	return errors.Join(s.Stop(ctx), s.Close())
}

// run runs a program to its end.
func (d distribution) run(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = d.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w\n%s", program, err, out)
	}
	return nil
}

// javaArgs returns the JVM's arguments before the class.
func (d distribution) javaArgs(cfg KafkaConfig, log string) ([]string, error) {
	classpath, err := os.ReadFile(d.path(classpathFile))
	if err != nil {
		return nil, err
	}
	args := []string{
		"-Xms" + cfg.Heap, "-Xmx" + cfg.Heap,
		"-Dlog4j2.configurationFile=" + d.path(logConfigFile), "-Dwalpost.log=" + log,
		"-cp", strings.TrimSpace(string(classpath)),
	}
	if !cfg.Load {
		return append(args, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"), nil
	}
	// As Kafka's own scripts start it (kafka-run-class.sh): another collector would stop it
	// for longer than a record takes.
	return append(args, scriptOptions...), nil
}

// start starts a broker on free ports, and on others when somebody else was
// faster to listen on one.
func (d distribution) start(ctx context.Context, cfg KafkaConfig) (*KafkaServer, error) {
	dir, err := serverDir(cfg.Dir, nil)
	if err != nil {
		return nil, err
	}
	s := &KafkaServer{
		Source: Programs, logFile: filepath.Join(dir, "kafka.log"), timeout: cfg.StartTimeout,
		launch: func(ctx context.Context) (Process, error) { return d.launch(ctx, dir, cfg) },
		remove: func(context.Context) error { return os.RemoveAll(dir) },
	}
	const tries = 5
	for range tries {
		if err = d.setUp(ctx, s, dir, cfg); err != nil {
			break
		}
		if err = s.Start(ctx); err == nil || !s.anyPortTaken(ctx) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *KafkaServer) anyPortTaken(ctx context.Context) bool {
	for _, port := range s.ports {
		if portTaken(ctx, port) {
			return true
		}
	}
	return false
}

// setUp writes a broker's settings and its empty data directory.
func (d distribution) setUp(ctx context.Context, s *KafkaServer, dir string, cfg KafkaConfig) error {
	if err := s.takePorts(ctx, cfg.Listeners); err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	if err := os.RemoveAll(data); err != nil {
		return err
	}
	if err := os.CopyFS(data, os.DirFS(d.path(formattedDir))); err != nil {
		return err
	}
	return writeProperties(filepath.Join(dir, "server.properties"), s.properties(cfg, "127.0.0.1", data))
}

func (d distribution) launch(ctx context.Context, dir string, cfg KafkaConfig) (Process, error) {
	log, err := openLog(filepath.Join(dir, "kafka.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // the broker has its own handle
	args, err := d.javaArgs(cfg, log.Name())
	if err != nil {
		return nil, err
	}
	args = append(args, d.archiveArgs()...)
	args = append(args, "kafka.Kafka", filepath.Join(dir, "server.properties"))
	cmd := exec.CommandContext(context.WithoutCancel(ctx), d.java, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	return startProcess(cmd, nil, syscall.SIGKILL)
}

// archiveArgs returns the JVM's arguments about the archive of classes. One that
// does not fit the JVM is ignored by it, without a word.
func (d distribution) archiveArgs() []string {
	args := []string{"-Xlog:cds=off", "-Xlog:cds+dynamic=off"}
	if d.archiving {
		return append(args, "-XX:ArchiveClassesAtExit="+d.path(archiveFile))
	}
	if _, err := os.Stat(d.path(archiveFile)); err == nil {
		return append(args, "-XX:SharedArchiveFile="+d.path(archiveFile))
	}
	return args
}

var propertyEscaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`)

// writeProperties writes a file of Java properties.
func writeProperties(path string, properties map[string]string) error {
	var b strings.Builder
	for name, value := range properties {
		fmt.Fprintf(&b, "%s=%s\n", name, propertyEscaper.Replace(value))
	}
	return os.WriteFile(path, []byte(b.String()), 0o600)
}

// scriptOptions are what Kafka's own scripts give a JVM.
var scriptOptions = []string{"-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"}
