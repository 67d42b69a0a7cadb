"""The scripts as processes, with real files, as a user runs them."""

import csv
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import PEOPLE, ROOT, SMALL, run_script, write_conll

import inference
import train
from inference import load_tagger
from utils import InputError, checksum, convert_tags, exit_status, load_checkpoint, read_corpus


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with data and a model that has learned it by heart."""
    folder = tmp_path_factory.mktemp('trained')
    write_conll(folder / 'data.txt', PEOPLE)
    result = run_script(
        'train.py',
        *SMALL,
        *data_files(folder),
        '--epochs',
        80,
        '--lr',
        0.1,
        '--patience',
        80,
        '--output_dir',
        folder,
    )
    assert result.returncode == 0, result.stderr
    (folder / 'stdout.txt').write_text(result.stdout)
    return folder


def data_files(folder):
    return [x for name in ('train', 'val', 'test') for x in (f'--{name}_file', folder / 'data.txt')]


BEST = 'BEST_checkpoint_lm_lstm_crf.pth.tar'
LATEST = 'checkpoint_lm_lstm_crf.pth.tar'


def test_training_prints_scores_and_sentences(folder):
    output = (folder / 'stdout.txt').read_text()
    assert 'epoch 0: LM loss' in output
    assert 'macro F1 1.0000, entity F1 1.0000, accuracy 1.0000 (best so far); lr' in output
    assert '\nPER     1.0000  1.0000  1.0000        4\n' in output
    assert '[PER Dunston] checks in\n[PER Amara Okafor] flew to [LOC Oslo] .\n' in output


def test_log(folder):
    rows = list(csv.DictReader((folder / 'training_log.csv').open()))
    assert [int(row['epoch']) for row in rows] == list(range(80))
    assert list(rows[0]) == [
        'epoch',
        'lm_loss',
        'viterbi_loss',
        'val_viterbi_loss',
        'macro_f1',
        'entity_f1',
        'accuracy',
        'lr',
        'seconds',
    ]
    assert float(rows[3]['lr']) == pytest.approx(0.1 / (1 + 0.05 * 3))
    assert float(rows[-1]['lm_loss']) < float(rows[0]['lm_loss'])


def test_checkpoint_loads_safely_and_knows_its_maps(folder):
    checkpoint = torch.load(folder / BEST, weights_only=True)
    assert checkpoint['word_map'].split('\n')[0] == '<pad>'
    tagger = load_tagger(folder / BEST)
    assert set(tagger.maps['tag_map']) == {
        '<start>',
        '<end>',
        'O',
        *(f'{p}-{t}' for p in 'BIES' for t in ('PER', 'LOC')),
    }
    words = [[], ['Amara', 'Okafor', 'flew', 'to', 'Oslo', '.'], ['\u5317', '\U0001f600']]
    assert [tagged['tags'] for tagged in tagger.tag(words)][:2] == [
        [],
        ['B-PER', 'I-PER', 'O', 'O', 'B-LOC', 'O'],
    ]


def test_tagging_text_files_and_standard_input(folder, tmp_path):
    expected = '[PER Dunston] checks in\n\n[PER Amara Okafor] flew to [LOC Oslo].\n'
    text = 'Dunston checks in\n\nAmara Okafor flew to Oslo.\n'
    (tmp_path / 'text.txt').write_text(text)
    for result in (
        run_script('inference.py', folder / BEST, '--text', text.removesuffix('\n')),
        run_script('inference.py', folder / BEST, tmp_path / 'text.txt'),
        run_script('inference.py', folder / BEST, stdin=text),
    ):
        assert (result.stdout, result.stderr, result.returncode) == (expected, '', 0)


def test_pos_from_a_two_column_file(tmp_path):
    rows = [(['Dunston', 'checks', 'in'], ['NNP', 'VBZ', 'RB'])] * 3
    write_conll(tmp_path / 'data.txt', rows)
    result = run_script(
        'train.py',
        *SMALL,
        *data_files(tmp_path),
        '--task',
        'pos',
        '--epochs',
        30,
        '--lr',
        0.1,
        '--output_dir',
        tmp_path,
        '--criterion',
        'accuracy',
    )
    assert '\nNNP     1.0000  1.0000  1.0000        3\n' in result.stdout
    assert 'entity' not in result.stdout
    assert result.stdout.endswith('Dunston/NNP checks/VBZ in/RB\nDunston/NNP checks/VBZ in/RB\n')


def test_one_seed_gives_one_model(tmp_path):
    write_conll(tmp_path / 'data.txt', PEOPLE)
    weights = []
    for run, hash_seed in (('a', '1'), ('b', '2')):
        result = run_script(
            'train.py',
            *SMALL,
            *data_files(tmp_path),
            '--epochs',
            2,
            '--dropout',
            0.5,
            '--output_dir',
            tmp_path / run,
            PYTHONHASHSEED=hash_seed,
        )
        assert result.returncode == 0, result.stderr
        weights.append(torch.load(tmp_path / run / LATEST, weights_only=True)['model'])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize('scheme', ['iob1', 'iob2', 'iobes'])
def test_any_scheme_in_the_file_is_converted(tmp_path, scheme):
    converted = [(words, convert_tags(tags, scheme)) for words, tags in PEOPLE]
    file = write_conll(tmp_path / 'data.txt', converted)
    tags = read_corpus(file, 'ner', tag_column=3, tag_scheme='iobes')[1]
    assert tags[1] == ['B-PER', 'E-PER', 'O', 'O', 'S-LOC', 'O']


def test_embeddings_expand_the_vocabulary(tmp_path):
    write_conll(tmp_path / 'data.txt', PEOPLE)
    (tmp_path / 'vectors.txt').write_text('oslo 1 2 3\nbergen 1 2 3\nBergen 4 5 6\n')
    options = [x for x in SMALL if x not in ('--word_emb_dim', 6)]
    files = (
        *data_files(tmp_path),
        '--emb_file',
        tmp_path / 'vectors.txt',
        '--output_dir',
        tmp_path,
    )
    result = run_script('train.py', *options, *files, '--epochs', 1)
    assert '16.7% of the validation words, 1 of 12 different ones' in result.stdout, result.stderr
    tagger = load_tagger(tmp_path / BEST)
    index = tagger.maps['word_map']['bergen']
    assert tagger.model.word_embeds.weight[index].tolist() == [1, 2, 3]
    assert tagger.model.forw_lm_out.out_features == index
    result = run_script('train.py', *options, *files, '--word_emb_dim', 100)
    assert result.stderr == (
        f'error: --word_emb_dim: expected 3, as in {tmp_path / "vectors.txt"}, found 100\n'
    )


def test_earlier_runs_are_kept(tmp_path):
    write_conll(tmp_path / 'data.txt', PEOPLE)
    for _ in range(3):
        result = run_script(
            'train.py', *SMALL, *data_files(tmp_path), '--epochs', 1, '--output_dir', tmp_path
        )
    assert f'{tmp_path / BEST} is kept as {tmp_path / BEST}.2' in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {
        'data.txt',
        *(name + end for name in (BEST, LATEST, 'training_log.csv') for end in ('', '.1', '.2')),
    }


@pytest.mark.parametrize('vectors', [(), ('--emb_file', 'vectors.txt')])
def test_resuming_goes_on(tmp_path, vectors):
    write_conll(tmp_path / 'data.txt', PEOPLE)
    (tmp_path / 'vectors.txt').write_text('oslo 0 1 2 3 4 5\nlagos 5 4 3 2 1 0\n')
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    options = (*SMALL, '--dropout', 0.5, *data_files(tmp_path))
    options += tuple(tmp_path / x if x.endswith('.txt') else x for x in vectors)
    run_script('train.py', *options, '--epochs', 4, '--output_dir', whole)
    run_script('train.py', *options, '--epochs', 2, '--output_dir', parts)
    result = run_script('train.py', '--checkpoint', parts / LATEST, '--epochs', 4)
    assert result.returncode == 0, result.stderr
    weights = [torch.load(run / LATEST, weights_only=True)['model'] for run in (whole, parts)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert len(list(csv.DictReader((parts / 'training_log.csv').open()))) == 4
    result = run_script('train.py', '--checkpoint', parts / LATEST, '--char_rnn_dim', 9)
    assert result.stderr == f'error: --char_rnn_dim: expected 8, as in {parts / LATEST}, found 9\n'


def test_going_on_elsewhere_keeps_the_other_runs_apart(tmp_path):
    write_conll(tmp_path / 'data.txt', PEOPLE)
    options = (*SMALL, *data_files(tmp_path), '--epochs', 1, '--output_dir', tmp_path)
    run_script('train.py', *options)
    run_script('train.py', *options, '--task', 'pos')
    of_pos = {name: (tmp_path / name).read_bytes() for name in (BEST, LATEST, 'training_log.csv')}
    earlier = tmp_path / f'{LATEST}.1'
    for folder in (tmp_path, tmp_path / 'elsewhere'):
        result = run_script(
            'train.py', '--checkpoint', earlier, '--epochs', 2, '--output_dir', folder
        )
        assert result.returncode == 0, result.stderr
        assert f'tagged by {folder / BEST}' in result.stdout
        assert load_checkpoint(folder / BEST, 'cpu')['epoch'] == 2
    assert of_pos == {name: (tmp_path / f'{name}.2').read_bytes() for name in of_pos}
    result = run_script('train.py', '--checkpoint', earlier)
    assert result.returncode == 0 and '1 epochs are done already' in result.stdout


def test_the_advice_how_to_go_on_names_a_file_that_is_there(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        train.INTERRUPTS.append(signal.SIGTERM)
        raise train.Interrupted

    write_conll(tmp_path / 'data.txt', PEOPLE)
    options = (*SMALL, *data_files(tmp_path), '--epochs', 1, '--output_dir', tmp_path)
    run_script('train.py', *options)
    monkeypatch.setattr(train, 'train_epochs', interrupted)
    for arguments, advice in [
        (('--output_dir', tmp_path / 'new', *options[:-2]), 'there is no checkpoint yet'),
        (('--checkpoint', tmp_path / LATEST), f'--checkpoint {tmp_path / LATEST}\n'),
        (('--checkpoint', tmp_path / BEST), f'--checkpoint {tmp_path / BEST}\n'),
    ]:
        status = exit_status(train.main, [str(x) for x in arguments])
        assert status == 128 + signal.SIGTERM and advice in capsys.readouterr().out


def test_any_terminal_and_any_pipe_will_do(tmp_path):
    write_conll(tmp_path / 'data.txt', [(['Gdańsk'], ['B-LOC'])])
    arguments = (*SMALL, *data_files(tmp_path), '--epochs', 1, '--output_dir', tmp_path)
    result = run_script('train.py', *arguments, PYTHONIOENCODING='ascii')
    assert result.returncode == 0 and 'Gdańsk' in result.stdout
    command = [sys.executable, str(ROOT / 'train.py'), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.communicate()[1] == b'' and process.returncode == 141


def test_early_stopping(tmp_path):
    write_conll(tmp_path / 'data.txt', PEOPLE)
    result = run_script(
        'train.py',
        *SMALL,
        *data_files(tmp_path),
        '--lr',
        0,
        '--patience',
        3,
        '--output_dir',
        tmp_path,
    )
    assert 'epoch 3:' in result.stdout and 'epoch 4:' not in result.stdout
    assert 'no better score for 3 epochs' in result.stdout
    result = run_script('train.py', '--checkpoint', tmp_path / LATEST, '--epochs', 9)
    assert result.returncode == 0 and 'no better score for 3 epochs' in result.stdout


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupts_say_how_to_go_on(tmp_path, number):
    write_conll(tmp_path / 'data.txt', PEOPLE * 20)
    command = [sys.executable, ROOT / 'train.py', *SMALL, *data_files(tmp_path)]
    command += ['--output_dir', tmp_path, '--patience', 200]
    process = subprocess.Popen([str(x) for x in command], stdout=subprocess.PIPE, text=True)
    while not (tmp_path / 'training_log.csv').exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number
    assert f'to go on: python train.py --checkpoint {tmp_path / LATEST}' in output
    # Ctrl-C leaves time for the test file, SIGTERM does not
    assert ('all tags: accuracy' in output) == (number == signal.SIGINT)


def test_a_loss_that_is_no_number_stops_training(tmp_path, capsys):
    write_conll(tmp_path / 'data.txt', PEOPLE)
    arguments = [*SMALL, *data_files(tmp_path), '--output_dir', tmp_path]
    assert exit_status(train.main, [str(x) for x in (*arguments, '--epochs', 1)]) == 0
    before = (tmp_path / LATEST).read_bytes()
    arguments = ['--checkpoint', tmp_path / LATEST, '--epochs', 9, '--lr', 1e30]
    arguments += ['--grad_clip', 1e30, '--batch_size', 1]
    message = exit_status(train.main, [str(x) for x in arguments])
    assert 'epoch 1, by step' in message and 'try a smaller --lr' in message
    assert (tmp_path / LATEST).read_bytes() == before


def test_killed_at_any_moment_it_goes_on_as_if_nothing_had_happened(tmp_path, request):
    rounds = 30 if request.config.getoption('--long') else 3
    write_conll(tmp_path / 'data.txt', PEOPLE * 8)
    options = (*SMALL, '--dropout', 0.5, *data_files(tmp_path), '--epochs', 12, '--patience', 12)
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    run_script('train.py', *options, '--output_dir', whole)
    generator = random.Random(0)
    for _ in range(rounds):
        resume = ('--checkpoint', parts / LATEST) if (parts / LATEST).exists() else options
        command = [sys.executable, ROOT / 'train.py', *resume, '--output_dir', parts]
        process = subprocess.Popen(
            [str(x) for x in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        # The first line comes when training begins
        process.stdout.readline()
        time.sleep(generator.uniform(0, 0.4))
        process.kill()
        process.communicate()
    resume = ('--checkpoint', parts / LATEST) if (parts / LATEST).exists() else options
    result = run_script('train.py', *resume, '--output_dir', parts)
    assert result.returncode == 0, result.stderr
    for name in (LATEST, BEST):
        one, other = (torch.load(run / name, weights_only=True) for run in (whole, parts))
        assert all(torch.equal(one['model'][key], other['model'][key]) for key in one['model'])
        assert one['best_score'] == other['best_score']
    logs = [list(csv.reader((run / 'training_log.csv').open())) for run in (whole, parts)]
    # The last column says how many seconds it took
    assert [row[:-1] for row in logs[0]] == [row[:-1] for row in logs[1]]


def test_a_damaged_checkpoint_is_refused_or_right(folder, tmp_path):
    data = (folder / BEST).read_bytes()
    right = torch.load(folder / BEST, weights_only=True)['checksum']
    path = tmp_path / 'damaged.pth.tar'
    generator = random.Random(0)
    damaged = [data[:size] for size in range(0, len(data), 1000)]
    for _ in range(100):
        position = generator.randrange(len(data))
        damaged.append(data[:position] + bytes([data[position] ^ 255]) + data[position + 1 :])
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            checkpoint = load_checkpoint(path, 'cpu')
            for name in ('word_map', 'char_map', 'tag_map'):
                checkpoint[name] = '\n'.join(checkpoint[name])
            assert checksum(checkpoint) == right
        except InputError as error:
            refused += 1
            assert str(path) in str(error) and '\n' not in str(error)
    assert refused > len(data) // 1000


def test_two_processes_take_the_same_steps_as_one(tmp_path):
    # 41 sentences: the last batch of ten has one, so that a process is idle
    write_conll(tmp_path / 'data.txt', (PEOPLE * 9)[:41])
    # One process trains the rows of the words in the file, two train all of them
    (tmp_path / 'vectors.txt').write_text('oslo 0 1 2 3 4 5\nlagos 5 4 3 2 1 0\n')
    options = [*SMALL, *data_files(tmp_path), '--epochs', 3, '--lr', 0.1]
    options += ['--emb_file', tmp_path / 'vectors.txt']
    one, two = tmp_path / 'one', tmp_path / 'two'
    run_script('train.py', *options, '--batch_size', 10, '--output_dir', one)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    command += ['train.py', *options, '--batch_size', 5, '--output_dir', two]
    result = subprocess.run(
        [str(x) for x in command], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('epoch 2: LM loss') == 1 and 'all tags' in result.stdout
    first, second = (torch.load(run / LATEST, weights_only=True) for run in (one, two))
    for name, weights in first['model'].items():
        assert torch.allclose(weights, second['model'][name], atol=1e-5), name
    logs = [list(csv.reader((run / 'training_log.csv').open())) for run in (one, two)]
    for row, other in zip(logs[0][1:], logs[1][1:]):
        figures = [[float(x) for x in line[:-1]] for line in (row, other)]
        assert figures[0] == pytest.approx(figures[1], abs=1e-4)


def test_when_one_process_dies_the_others_end(tmp_path):
    write_conll(tmp_path / 'data.txt', PEOPLE * 20)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    command += ['train.py', *SMALL, *data_files(tmp_path), '--output_dir', tmp_path]
    process = subprocess.Popen(
        [str(x) for x in command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (tmp_path / LATEST).exists():
        assert process.poll() is None
        time.sleep(0.1)
    children = subprocess.check_output(['pgrep', '-P', str(process.pid)], text=True).split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    assert train.load_checkpoint(tmp_path / LATEST, 'cpu')


def test_a_full_disk_ends_with_one_line_and_leaves_the_checkpoint_whole(tmp_path):
    write_conll(tmp_path / 'data.txt', PEOPLE)
    run_script('train.py', *SMALL, *data_files(tmp_path), '--epochs', 1, '--output_dir', tmp_path)
    before = (tmp_path / LATEST).read_bytes()
    command = [sys.executable, ROOT / 'train.py', '--checkpoint', tmp_path / LATEST, '--epochs', 2]
    result = subprocess.run(
        [str(x) for x in command],
        capture_output=True,
        text=True,
        # No file may become larger than half a checkpoint
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2,) * 2),
    )
    assert result.returncode == 1 and result.stderr.count('\n') == 1, result.stderr
    assert 'cannot be written' in result.stderr
    assert (tmp_path / LATEST).read_bytes() == before
    assert not list(tmp_path.glob('*.tmp'))


def test_a_checkpoint_of_this_format_loads_for_ever():
    tagger = load_tagger(ROOT / 'tests' / 'checkpoint_format_1.pt')
    (tagged,) = tagger.tag(['Amara Okafor flew to Oslo.'])
    assert tagged['tags'] == ['B-PER', 'I-PER', 'O', 'O', 'B-LOC', 'O']


def test_train_and_validate_from_python(tmp_path, capsys):
    write_conll(tmp_path / 'data.txt', PEOPLE)
    arguments = [
        str(x) for x in (*SMALL, *data_files(tmp_path), '--epochs', 1, '--output_dir', tmp_path)
    ]
    assert train.main(arguments) == 0
    assert 'all tags' in capsys.readouterr().out
    args, _ = train.parse_arguments(arguments)
    corpora = dict.fromkeys(('train', 'val'), read_corpus(tmp_path / 'data.txt', 'ner', 3, 'iobes'))
    model, maps, _ = train.start(args, corpora)
    loader = train.make_loader(*corpora['train'], maps, args, batch_size=2)
    criterion = train.ViterbiLoss(maps['tag_map'])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = train.train(loader, model, criterion, optimizer, args, epoch=0)
    later = [train.train(loader, model, criterion, optimizer, args, epoch=i) for i in range(5)][-1]
    assert later[0] < first[0] and later[1] < first[1]
    loss, scores = train.validate(
        loader, model, criterion, train.ViterbiDecoder(maps['tag_map']), maps['tag_map'], 'ner'
    )
    assert math.isfinite(loss) and set(scores) == {'accuracy', 'macro_f1', 'entity_f1', 'rows'}


def test_one_word_one_sentence_files(tmp_path):
    write_conll(tmp_path / 'data.txt', [(['Oslo'], ['B-LOC'])])
    result = run_script(
        'train.py', *SMALL, *data_files(tmp_path), '--epochs', 1, '--output_dir', tmp_path
    )
    assert result.returncode == 0, result.stderr


def test_dynamic_rnn():
    result = run_script('dynamic_rnn.py')
    assert result.returncode == 0 and result.stderr == ''
    assert 'tensor([5, 4, 9, 2, 6, 1, 7, 8, 3, 1])' in result.stdout
    assert 'tensor([3, 3, 2, 1, 1])' in result.stdout


# --- Bad input: one line, no traceback, and a status that is not 0 ---

NO_TAGS = 'Dunston NNP - -\nchecks VBZ - -\n'


@pytest.mark.parametrize(
    'name, text, arguments, message',
    [
        ('data.txt', None, [], 'data.txt: cannot be read: No such file or directory'),
        ('data.txt', '\n\n', [], 'data.txt: expected sentences, found none'),
        (
            'data.txt',
            'a X - O\n\nb O\n',
            [],
            "data.txt, line 3: expected at least 4 columns, found 'b O'",
        ),
        (
            'data.txt',
            NO_TAGS,
            [],
            "data.txt, line 1: expected a tag in column 3 (that column has only '-')"
            ", found 'Dunston NNP - -'",
        ),
        (
            'data.txt',
            'a X - O\nb X - B\n',
            [],
            "data.txt, line 2: expected an entity tag in column 3 instead of 'B', found 'b X - B'",
        ),
        (
            'data.txt',
            'a X - O\n\nb X - X-PER\n',
            [],
            "line 3: expected an entity tag in column 3 instead of 'X-PER'",
        ),
        (
            'data.txt',
            'a <start> - O\n',
            ['--task', 'pos'],
            "expected a tag in column 1 instead of '<start>'",
        ),
        (
            'data.txt',
            'a X - O\n',
            ['--task', 'chunks'],
            "argument --task: invalid choice: 'chunks'",
        ),
        ('data.txt', 'a X - O\n', ['--emb_file', 'none.txt'], 'none.txt: cannot be read'),
        ('data.txt', 'a X - O\n', ['--lr', 'fast'], 'argument --lr: expected float from 0 to inf'),
        (
            'data.txt',
            'a X - O\n',
            ['--batch_size', '0'],
            'argument --batch_size: expected int from 1',
        ),
        ('data.txt', 'a X - O\n', ['--seed', '9' * 19], 'argument --seed: expected int from 0'),
        ('data.txt', 'a X - O\n', ['--device', 'cpu:0'], '--device: expected cpu, or cuda'),
        (
            'data.txt',
            'a X - O\n',
            ['--no-characters'],
            '--no-characters: expected --no-language_models too',
        ),
        (
            'data.txt',
            'a X - O\n',
            ['--task', 'pos', '--criterion', 'entity_f1'],
            'expected --task ner',
        ),
        ('data.txt', 'a X - O\n', ['--output_dir', __file__], 'cannot be written'),
        ('data.txt', 'a X - O\n', ['--checkpoint', __file__], 'expected a checkpoint of train.py'),
        ('data.txt', 'a X - O\n', ['--checkpoint', 'none'], 'none: cannot be read: No such file'),
    ],
)
def test_bad_input_to_training(tmp_path, name, text, arguments, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    arguments = [*SMALL, *data_files(tmp_path), '--output_dir', tmp_path, *arguments]
    assert_one_line(train.main, arguments, message)


def assert_one_line(main, arguments, message):
    """sys.exit prints what comes back, and exits with status 1."""
    status = exit_status(main, [str(x) for x in arguments])
    assert isinstance(status, str) and status.startswith('error: ') and '\n' not in status
    assert message in status


@pytest.mark.parametrize('script', ['train.py', 'inference.py'])
def test_bad_input_ends_a_process_with_one_line_and_a_status(script, tmp_path):
    arguments = ['--checkpoint'] * (script == 'train.py') + [tmp_path / 'none']
    result = run_script(script, *arguments)
    assert (
        result.stderr == f'error: {tmp_path / "none"}: cannot be read: No such file or directory\n'
    )
    assert result.stdout == '' and result.returncode == 1


def test_train_file_alone_is_not_validated_on_the_sample(tmp_path):
    write_conll(tmp_path / 'data.txt', PEOPLE)
    assert_one_line(
        train.main,
        ['--train_file', tmp_path / 'data.txt'],
        '--val_file: expected a file beside your others, found none',
    )


def test_unknown_tag_when_going_on(folder, tmp_path):
    write_conll(tmp_path / 'data.txt', [(['Bahamas'], ['B-ISLAND'])])
    arguments = [
        '--checkpoint',
        folder / LATEST,
        '--output_dir',
        tmp_path,
        '--train_file',
        tmp_path / 'data.txt',
        '--epochs',
        99,
    ]
    assert_one_line(train.main, arguments, 'data.txt, line 1: expected a tag that')


def test_bad_input_to_tagging(folder, tmp_path):
    (tmp_path / 'text.txt').write_bytes(b'\xff\n')
    torch.save({'format': 99}, tmp_path / 'later.pth.tar')
    for arguments, message in [
        ((tmp_path / 'text.txt',), 'text.txt: expected a checkpoint of train.py'),
        ((tmp_path / 'none',), 'none: cannot be read: No such file or directory'),
        ((tmp_path / 'later.pth.tar',), 'later.pth.tar: expected format 1, found 99'),
        ((folder / BEST, tmp_path / 'none'), 'none: cannot be read'),
        ((), 'the following arguments are required: checkpoint (--help'),
        ((folder / BEST, '--evaluate'), '--evaluate: expected labelled files, found none'),
        ((folder / BEST, '--text', 'Oslo', 'file'), '--text: expected no files'),
        ((folder / BEST, '--explain', '--format', 'conll'), '--explain: expected neither'),
    ]:
        assert_one_line(inference.main, arguments, message)
